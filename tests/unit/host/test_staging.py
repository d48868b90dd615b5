"""A disk as a folder of pieces, and the reader that they come from."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed
from triune.host.nbd import NbdReader, RawReader, parse_map
from triune.host.staging.pieces import PER_FOLDER, PIECE, Pieces, index_of, path_of, touched


class Bytes:
    """A disk whose every byte tells its piece."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        return bytes([offset // PIECE % 251]) * length

    def close(self) -> None: ...


@given(st.integers(0, 10**8))
def test_paths_lead_back(index: int) -> None:
    assert index_of(path_of(index)) == index


@pytest.mark.parametrize("path", ["", "000000", "000001/000000000", "000000/0", "x/000000000", "000000/٠00000000"])
def test_other_paths_are_no_pieces(path: str) -> None:
    assert index_of(path) is None


def test_ranges_touch_pieces() -> None:
    assert touched([(0, 1), (PIECE - 1, 2), (5 * PIECE, 0), (9 * PIECE, 99 * PIECE)], 10 * PIECE) == {0, 1, 9}


def test_the_folder() -> None:
    disk = Bytes(3000 * PIECE + 7)
    content = Pieces(disk, disk.size, {1: 5, 1500: 6, 3000: 7})
    folders = [name for name, _ in content.names(1)]
    assert folders == ["000000", "000001", "000002"]
    folder = content.find(1, "000002")
    assert folder is not None
    ((name, node),) = content.names(folder.number)
    assert (name, node.size, node.time) == ("000003000", 7, 7)
    assert content.find(folder.number, "000001500") is None
    assert content.find(1, "000009") is None
    assert content.node(1 << 60) is None
    assert content.read(node.number, 2, 99) == bytes([3000 % 251]) * 5
    assert content.read(node.number, 0, 1) == bytes([3000 % 251])
    assert disk.asked == [(3000 * PIECE, 7)]
    assert PER_FOLDER == 1024


@given(
    st.binary()
    | st.lists(st.fixed_dictionaries({"start": st.integers(), "length": st.integers(), "zero": st.booleans()}))
    .map(repr)
    .map(str.encode)
)
def test_any_map_is_ranges_or_a_clear_error(text: bytes) -> None:
    try:
        assert isinstance(parse_map(text), list)
    except Failed as error:
        assert error.code == "bad_map"


def test_neighbours_are_joined() -> None:
    text = b"""[{"start": 0, "length": 10, "zero": false}, {"start": 10, "length": 5, "zero": false},
               {"start": 15, "length": 5, "zero": true}, {"start": 20, "length": 1, "zero": false}]"""
    assert parse_map(text) == [(0, 15), (20, 1)]


def test_a_raw_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"0123456789")
    reader = RawReader(path)
    assert (reader.size, reader.read(3, 4)) == (10, b"3456")
    with pytest.raises(OSError, match="ended"):
        reader.read(8, 4)
    reader.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """A server of one export, `a`, with the ten bytes 0 to 9; reading at 9 fails."""
    path = tmp_path / "nbd"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
    thread.start()
    yield path
    listener.close()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as stream:
            connection.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
            stream.read(4)
            _, option, length = struct.unpack(">QII", stream.read(16))
            name = stream.read(length)[4:-2]
            reply = struct.pack(">QI", 0x3E889045565A9, option)
            if name != b"a":
                connection.sendall(reply + struct.pack(">II", 0x80000006, 4) + b"none")
                continue
            connection.sendall(reply + struct.pack(">IIHQH", 3, 12, 0, 10, 2) + reply + struct.pack(">II", 1, 0))
            while request := stream.read(28):
                _, _, kind, number, offset, size = struct.unpack(">IHHQQI", request)
                if kind == 2:
                    break
                error = 5 if offset == 9 else 0
                connection.sendall(struct.pack(">IIQ", 0x67446698, error, number))
                if not error:
                    connection.sendall(b"0123456789"[offset : offset + size])


def test_an_export(server: Path) -> None:
    reader = NbdReader(server, "a")
    assert (reader.size, reader.read(2, 5), reader.read(0, 1)) == (10, b"23456", b"0")
    with pytest.raises(OSError, match="could not read"):
        reader.read(9, 1)
    reader.close()


def test_an_export_that_is_not_there(server: Path) -> None:
    with pytest.raises(OSError, match="none"):
        NbdReader(server, "b")
