"""The read-only file system: what the kernel asks, answered; and a real mount where the host allows one."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.host.fuse import Node, Server, attach_by_helper
from triune.host.run import run

BIG = 60 << 40
NODES = {
    "": Node(1, 0, 0, folder=True, mode=0o755),
    "inner": Node(2, 0, 7 * 10**9, folder=True),
    "disk": Node(3, BIG, 5, mode=0o640, uid=12, gid=34, allocated=4096),
    "bad": Node(4, 10, 0),
    "link": Node(5, 4, 0, link=True),
}


class Tree:
    """A folder with a folder, a large file with a page of data in its middle, one that can't be read, and a link."""

    def node(self, number: int) -> Node | None:
        return next((node for node in NODES.values() if node.number == number), None)

    def find(self, folder: int, name: str) -> Node | None:
        return NODES.get(name) if folder == 1 and name else None

    def names(self, folder: int) -> Sequence[tuple[str, Node]]:
        return [(name, node) for name, node in NODES.items() if name] if folder == 1 else []

    def read(self, number: int, offset: int, length: int) -> bytes:
        if number == 4:
            raise OSError(errno.EIO, "lost")
        middle = BIG // 2
        return bytes(1 if middle <= at < middle + 4096 else 0 for at in range(offset, min(BIG, offset + length)))

    def target(self, number: int) -> str:
        assert number == 5
        return "disk"

    def data(self, number: int, offset: int) -> tuple[int, int] | None:
        middle = BIG // 2
        return (middle, middle + 4096) if number == 3 and offset < middle + 4096 else None


def asked(opcode: int, node: int = 1, body: bytes = b"") -> tuple[int, bytes]:
    """What a server answers to one request: its status and body."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, device:
        kernel.send(struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 99, node, 0, 0, 0, 0, 0) + body)
        server = Server(Tree(), device.fileno(), cached=True)
        server._answer(os.read(device.fileno(), 1 << 17))
        reply = kernel.recv(1 << 21)
    length, status, unique = struct.unpack_from("=IiQ", reply)
    assert (length, unique) == (len(reply), 99)
    return status, reply[16:]


def attributes(body: bytes) -> dict[str, int]:
    names = [
        "ino",
        "size",
        "blocks",
        "atime",
        "mtime",
        "ctime",
        "an",
        "mn",
        "cn",
        "mode",
        "nlink",
        "uid",
        "gid",
        "rdev",
        "blksize",
        "flags",
    ]
    return dict(zip(names, struct.unpack("=QQQQQQIIIIIIIIII", body), strict=True))


def test_attributes() -> None:
    status, body = asked(3, 3)
    found = attributes(body[16:])
    assert (status, found["size"], found["blocks"], found["uid"], found["gid"]) == (0, BIG, 8, 12, 34)
    assert found["mode"] == stat.S_IFREG | 0o640
    assert attributes(asked(3, 5)[1][16:])["mode"] == stat.S_IFLNK | 0o600
    assert asked(3, 77)[0] == -errno.ENOENT


def test_links_and_lost_bytes() -> None:
    assert asked(5, 5) == (0, b"disk")
    assert asked(15, 4, struct.pack("=QQIIQII", 0, 0, 10, 0, 0, 0, 0))[0] == -errno.EIO


@pytest.mark.parametrize(
    ("offset", "whence", "expected"),
    [
        (0, os.SEEK_DATA, BIG // 2),
        (BIG // 2 + 5, os.SEEK_DATA, BIG // 2 + 5),
        (0, os.SEEK_HOLE, 0),
        (BIG // 2, os.SEEK_HOLE, BIG // 2 + 4096),
        (BIG - 1, os.SEEK_HOLE, BIG - 1),
        (BIG // 2 + 4096, os.SEEK_DATA, -errno.ENXIO),
        (BIG, os.SEEK_HOLE, -errno.ENXIO),
    ],
)
def test_holes_are_told(offset: int, whence: int, expected: int) -> None:
    status, body = asked(46, 3, struct.pack("=QQII", 0, offset, whence, 0))
    assert (struct.unpack("=Q", body)[0] if status == 0 else status) == expected


def test_what_is_not_known_is_refused() -> None:
    assert asked(16, 3)[0] == -errno.ENOSYS


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("fusermount3") is None or not os.access("/dev/fuse", os.F_OK):
        pytest.skip("hardware: no FUSE here")
    folder = tmp_path / "mounted"
    folder.mkdir()
    server = Server(Tree(), attach_by_helper(folder, "a,b"), cached=True)
    thread = threading.Thread(target=server.serve, args=(3,))
    thread.start()
    yield folder
    run(["fusermount3", "-u", folder])
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.live
def test_a_real_mount(mounted: Path) -> None:
    assert sorted(path.name for path in mounted.iterdir()) == ["bad", "disk", "inner", "link"]
    disk = mounted / "disk"
    assert disk.stat().st_size == BIG
    with disk.open("rb", buffering=0) as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == BIG // 2
        assert os.pread(file.fileno(), 8192, BIG // 2) == b"\1" * 4096 + bytes(4096)
    assert (mounted / "link").readlink() == Path("disk")
    assert list((mounted / "inner").iterdir()) == []
    with pytest.raises(OSError, match="Input/output"):
        (mounted / "bad").read_bytes()
    with pytest.raises(OSError, match="Read-only"):
        (mounted / "new").touch()
