"""The content of a disk from an NBD export into a qcow2 file, and the sum that proves it.

The sum is of the content as the guest sees it, whatever holds it, and takes no time for what is zeros: the SHA-256 of
"triune-pieces-1MiB", the size in bytes (8 bytes, big-endian), and for each piece of 1 MiB that isn't all zeros, in
order, its number (8 bytes) and its SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from triune.disks import vmdk
from triune.disks.source import FileSource, Window
from triune.disks.stream import Stream
from triune.domain.errors import Denied, Failed, Invalid
from triune.host.nbd import NbdReader, data_ranges
from triune.host.run import Result as Ended
from triune.host.run import command_failed, environment, tool_missing
from triune.host.watched import run_watched

PIECE = 1 << 20
ALGORITHM = "sha256-pieces-1MiB"
_BATCH = 4
_ZEROS = bytes(PIECE)
_PATIENCE = 20.0

Tick = Callable[[float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A disk served by NBD on a unix socket of this host."""

    socket: Path
    name: str

    @property
    def url(self) -> str:
        """As QEMU's options write it; a comma is doubled there."""
        socket, name = str(self.socket).replace(",", ",,"), self.name.replace(",", ",,")
        return f"driver=nbd,server.type=unix,server.path={socket},export={name}"


def convert(source: Export, target: Path, tick: Tick) -> None:
    """Write the content as qcow2. `tick` gets the fraction done. Raises Failed."""
    argv: list[str | Path] = ["qemu-img", "convert", "-p", "--image-opts", "-O", "qcow2"]
    run_watched([*argv, "-o", "compat=1.1", source.url, target], tick)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A disk in one file of this host, or with a `length` in a part of it. `format` is raw or vmdk."""

    path: Path
    format: str
    offset: int = 0
    length: int = 0


def convert_file(source: Plain, target: Path, tick: Tick) -> None:
    """The same from a file, its format given: what was checked is what is opened. Raises Failed, Invalid."""
    with _opened(source) as (path, length):
        options = f"file.offset={source.offset},file.size={length},file.driver=raw,file.file.driver=file"
        image = f"driver={source.format},{options},file.file.filename={path}"
        # Writes in order, QEMU's default: out of order (-W) is for devices, and made images of files a tenth slower.
        argv: list[str | Path] = ["prlimit", f"--as={4 << 30}", "--core=0", "qemu-img", "convert", "-p"]
        run_watched([*argv, "--image-opts", image, "-O", "qcow2", "-o", "compat=1.1", target], tick)


def require_plain(source: Plain) -> None:
    """Raise Invalid, Denied where the file could lead QEMU to any other file."""
    with _opened(source):
        pass


@contextlib.contextmanager
def _opened(source: Plain) -> Iterator[tuple[str, int]]:
    """An open file under a name that nobody can put another file behind, and how much of it is meant."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(source.path, flags)
    except OSError as error:
        raise Invalid(
            "unreadable", f"{source.path} can't be read: {error.strerror}", hint="Leave the path out."
        ) from None
    file = FileSource(source.path, descriptor)
    try:
        length = source.length or file.size - source.offset
        if (
            source.format not in ("raw", "vmdk")
            or not source.path.is_absolute()
            or not 0 < length <= file.size - source.offset
        ):
            raise Invalid("bad_path", f"{source.path} holds no such disk", hint="Leave the path out.")
        if source.format == "vmdk":
            _require_alone(Window(file, source.offset, length), source.path)
        yield f"/proc/{os.getpid()}/fd/{descriptor}", length
    finally:
        file.close()


def _require_alone(part: Window, path: Path) -> None:
    info = vmdk.inspect(io.BufferedReader(Stream(part)))
    if info.kind != "sparse" or not info.virtual_size or info.parent or len(info.extents) > 1:
        raise Denied(
            "extents_refused",
            f"{path} leads to other files: it could name any file of this host",
            hint="Leave the path out: the export has its content too.",
        )


def digest(source: Export, tick: Tick) -> tuple[int, str]:
    """The size, and the sum of the content (see above). Raises Failed("source_unreadable")."""
    try:
        ranges = data_ranges(None, source.socket, source.name)
        reader = NbdReader(source.socket, source.name)
    except OSError as error:
        raise _unreadable(source, error) from None
    try:
        return reader.size, _sum(reader, ranges, tick)
    except OSError as error:
        raise _unreadable(source, error) from None
    finally:
        reader.close()


def _sum(reader: NbdReader, ranges: list[tuple[int, int]], tick: Tick) -> str:
    total = hashlib.sha256(b"triune-pieces-1MiB" + struct.pack(">Q", reader.size))
    for first, count in _batches(ranges, reader.size):
        offset = first * PIECE
        data = memoryview(reader.read(offset, min(count * PIECE, reader.size - offset)))
        tick(offset / reader.size)
        for index in range(count):
            piece = data[index * PIECE : (index + 1) * PIECE]
            if piece != memoryview(_ZEROS)[: len(piece)]:
                total.update(struct.pack(">Q", first + index) + hashlib.sha256(piece).digest())
    tick(1.0)
    return total.hexdigest()


def _batches(ranges: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """(first piece, count) of all pieces that the ranges touch, in order, a few at a time."""
    done = 0
    for start, length in ranges:
        first, end = max(done, start // PIECE), -(-min(start + length, size) // PIECE)
        while first < end:
            count = min(_BATCH, end - first)
            yield first, count
            first += count
        done = max(done, end)


def _unreadable(source: Export, error: OSError) -> Failed:
    return Failed(
        "source_unreadable",
        f"the disk {source.name} can't be read: {error.strerror or error}",
        hint="Look at what serves it; the import can be repeated.",
    )


@contextlib.contextmanager
def served(path: Path, form: str) -> Iterator[Export]:
    """Serve a disk file, its format given, for as long as the context lasts. Raises Failed, Unsupported."""
    with tempfile.TemporaryDirectory(prefix="triune-nbd-") as folder:
        export = Export(socket=Path(folder) / "disk.sock", name="disk")
        argv = ["qemu-nbd", "--read-only", "--persistent", "--shared=4", f"--export-name={export.name}"]
        try:
            process = subprocess.Popen(
                [*argv, f"--format={form}", f"--socket={export.socket}", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
            )
        except FileNotFoundError:
            raise tool_missing("qemu-nbd") from None
        with process:
            try:
                _await(process, export.socket)
                yield export
            finally:
                process.kill()


def _await(process: subprocess.Popen[bytes], socket: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not socket.exists():
        if process.poll() is not None:
            said = process.stderr.read() if process.stderr else b""
            raise command_failed(["qemu-nbd"], Ended(process.returncode, b"", said))
        if time.monotonic() > deadline:
            raise Failed("command_timeout", "qemu-nbd does not begin to serve", hint="Try again on a quieter host.")
        time.sleep(0.02)


def require_socket(path: Path) -> None:
    """Raise Invalid where there is no socket."""
    if not path.is_absolute() or not path.is_socket():
        raise Invalid(
            "no_socket", f"{path} is no unix socket of this host", hint="Serve the disk there by NBD, and keep on."
        )
