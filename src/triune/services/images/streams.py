"""Streams of bytes: a root tree as a tar, a file in chunks, an archive decompressed within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from triune.disks.detect import Content, detect
from triune.host.run import Result, command_failed, environment, tool_missing

_CHUNK = 1 << 20
_SAID = 4096
# Kernels, their modules and boot loaders; devices come from the engine.
_LEFT_OUT = ("./boot/*", "./efi/*", "./usr/lib/modules/*", "./lib/modules/*", "./dev/*", "./usr/lib/systemd/boot/*")


@contextmanager
def tree_stream(tree: Path) -> Iterator[Iterator[bytes]]:
    """The tar stream of a tree. Raises Failed("command_failed") at its end where tar failed."""
    argv = ["tar", "--create", "--numeric-owner", "--sort=name", "--xattrs", "--xattrs-include=security.capability"]
    argv += ["--anchored", *(f"--exclude={pattern}" for pattern in _LEFT_OUT)]
    argv += ["--directory", str(tree), "."]
    # Not a pipe: nobody reads it before the end, and tar with much to complain of would wait for that.
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=environment()
            )
        except FileNotFoundError:
            raise tool_missing("tar") from None

        def chunks() -> Iterator[bytes]:
            while process.stdout is not None and (chunk := process.stdout.read(_CHUNK)):
                yield chunk
            if process.wait() != 0:
                complaints.seek(max(0, complaints.tell() - _SAID))
                raise command_failed(argv, Result(process.returncode, b"", complaints.read(_SAID)))

        try:
            yield chunks()
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def file_stream(path: Path) -> Iterator[bytes]:
    """A file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


# A hostile stream may ask for gigabytes of window; these refuse it.
_PROGRAMS = {
    Content.XZ: ("xz", "--decompress", "--stdout", "--memlimit-decompress=512MiB"),
    Content.ZSTD: ("zstd", "--decompress", "--stdout", "--quiet", "--memory=512MB"),
}


@contextmanager
def decompressed(path: Path) -> Iterator[BinaryIO]:
    """A file's content, decompressed where it is gzip, bzip2, xz or zstd.

    Reading raises EOFError, OSError or zlib.error where the compressed data are damaged.
    """
    with path.open("rb") as file:
        content = detect(file).content
        file.seek(0)
        if content is Content.GZIP:
            with gzip.open(file) as plain:
                yield cast(BinaryIO, plain)
        elif content is Content.BZIP2:
            with bz2.open(file) as plain:
                yield cast(BinaryIO, plain)
        elif content in _PROGRAMS:
            with _piped(_PROGRAMS[content], file) as plain:
                yield cast(BinaryIO, plain)
        else:
            yield file


class _Output(io.RawIOBase):
    """A program's output; its end is only believed where the program succeeded."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._process.stdout.read(size) if self._process.stdout else b""
        if not data and size != 0 and self._process.wait() != 0:
            raise EOFError("the compressed data are damaged")
        return data


@contextmanager
def _piped(argv: tuple[str, ...], file: BinaryIO) -> Iterator[_Output]:
    try:
        process = subprocess.Popen(
            argv, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
        )
    except FileNotFoundError:
        raise tool_missing(argv[0]) from None
    try:
        yield _Output(process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
