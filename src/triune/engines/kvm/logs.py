"""What a virtual machine wrote to its serial console, from the file that libvirt keeps."""

from __future__ import annotations

import os
import stat
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

from triune.domain.errors import Unsupported
from triune.engines.kvm.client import Client

_BLOCK = 65536
_PAUSE = 0.2


class Logs:
    """The `logs` facet."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def read(self, name: str, *, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        """Yield chunks. Raises Unsupported("no_serial_log") for a domain that keeps none."""
        domain = self._client.domain(name)
        with self._client.errors(name):
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
        log = root.find("devices/serial/log")
        path = log.get("file") if log is not None else None
        if not path:
            raise Unsupported(
                "no_serial_log",
                f"{name!r} keeps no log of its serial console",
                hint=f"Look at it live: triune console {name}",
            )
        return _chunks(Path(path), tail, follow, stop)


def last_lines(path: Path, count: int) -> bytes:
    """The last lines of a file; empty when it is not there."""
    try:
        descriptor = _open(path)
    except OSError:
        return b""
    try:
        os.lseek(descriptor, _tail_offset(descriptor, count), os.SEEK_SET)
        return os.read(descriptor, _BLOCK)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def _chunks(path: Path, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
    descriptor = -1
    try:
        try:
            descriptor = _open(path)
        except OSError:
            if not follow:
                return  # never started: nothing was written
        else:
            os.lseek(descriptor, 0 if tail is None else _tail_offset(descriptor, tail), os.SEEK_SET)
        while not stop():
            data = os.read(descriptor, _BLOCK) if descriptor >= 0 else b""
            if data:
                yield data
            elif not follow:
                return
            else:
                time.sleep(_PAUSE)
                descriptor = _after_rotation(path, descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _after_rotation(path: Path, descriptor: int) -> int:
    """The descriptor to go on with: virtlogd renames a full log and begins a new one."""
    try:
        now = path.lstat()
    except OSError:
        return descriptor
    if descriptor >= 0:
        old = os.fstat(descriptor)
        if old.st_ino == now.st_ino and now.st_size >= os.lseek(descriptor, 0, os.SEEK_CUR):
            return descriptor
    try:
        fresh = _open(path)
    except OSError:
        return descriptor
    if descriptor >= 0:
        os.close(descriptor)
    return fresh


def _tail_offset(descriptor: int, lines: int) -> int:
    """Where the last `lines` lines begin."""
    size = end = os.fstat(descriptor).st_size
    if lines <= 0:
        return size
    found = 0
    while end > 0:
        begin = max(0, end - _BLOCK)
        block = os.pread(descriptor, end - begin, begin)
        if end == size and block.endswith(b"\n"):
            found -= 1  # the last line's own end
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == lines:
                return begin + at + 1
        end = begin
    return 0
