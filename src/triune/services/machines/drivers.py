"""Whether a Linux has drivers for virtio in what it boots from: its initial RAM disk, or built into its kernel.

The disks are looked into, never mounted. What can't be read, or takes too long, is not known: None.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

from triune.disks.content import Content
from triune.disks.stream import ContentSource, Stream
from triune.domain.machine import Machine
from triune.host.run import environment
from triune.services.machines.origin import Origin
from triune.services.machines.planning import is_linux

_PATIENCE = 60.0  # seconds
_WANTED = b"virtio_blk.ko"
# The header of a member and its name: lists of modules in there (modules.order) name drivers that are not.
_MEMBER = re.compile(rb"07070[12][0-9A-Fa-f]{104}[^\0]{0,400}virtio_blk\.ko(?:\.[a-z0-9]{1,4})?\0")
_LONGEST = 600
_CHUNK = 1 << 20
_LARGEST = 1 << 30  # packed
_LARGEST_UNPACKED = 4 << 30
_MOST_ENTRIES = 1 << 16
_MOST_FOUND = 200
_ASIDE = ("rescue", "kdump", "fallback", "old", "bak")
_TOOLS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"\x02\x21\x4c\x18": "lz4",
          b"BZh": "bzip2", b"\x89LZO": "lzop", b"\x5d\x00\x00": "xz"}  # fmt: skip


def virtio(origin: Origin) -> bool | None:
    """True where the system on the first disks boots by virtio too, False where not, None where it can't be told."""
    machine: Machine = origin.described.machine
    if machine.guest and not is_linux(machine.guest):
        return None
    answer: list[bool | None] = []
    looker = threading.Thread(target=lambda: answer.append(_look(list(origin.disks.values()))), daemon=True)
    looker.start()
    looker.join(_PATIENCE)
    return answer[0] if answer else None


def _look(disks: list[Content]) -> bool | None:
    # A stranger's file systems, read by a library: whatever goes wrong there only means that it isn't known.
    logging.getLogger("dissect").setLevel(logging.CRITICAL)
    newest: tuple[float, Any] | None = None
    try:
        for system in _file_systems(disks):
            if any(_WANTED in _text(path / "modules.builtin") for path in _modules(system)):
                return True
            for path in _ramdisks(system):
                when = path.stat().st_mtime
                if newest is None or when > newest[0]:
                    newest = (when, path)
        return None if newest is None else _holds(newest[1])
    except Exception:
        return None


def _file_systems(disks: list[Content]) -> Iterator[Any]:
    # by name: the library has no types
    filesystem, volume = (importlib.import_module(f"dissect.target.{name}") for name in ("filesystem", "volume"))
    groups = []
    for number, content in enumerate(disks):
        for one in volume.open(Stream(ContentSource(content, f"disk{number}"))).volumes:
            if volume.is_lvm_volume(one):
                groups.append(one)
            else:
                yield from _opened(filesystem, one)
    for system in volume.open_lvm(groups) if groups else ():
        for one in system.volumes:
            yield from _opened(filesystem, one)


def _opened(filesystem: Any, device: Any) -> Iterator[Any]:
    try:
        yield filesystem.open(device)
    except Exception:
        return


def _listed(folder: Any) -> list[Any]:
    """What is in a folder; nothing where it is none."""
    try:
        return sorted(itertools.islice(folder.iterdir(), _MOST_FOUND), key=str) if folder.is_dir() else []
    except Exception:
        return []


def _modules(system: Any) -> list[Any]:
    return [*_listed(system.path("/lib/modules")), *_listed(system.path("/usr/lib/modules"))]


def _ramdisks(system: Any) -> Iterator[Any]:
    """Where distributions put them: /boot, or a partition of its own for it, or the one of the firmware."""
    top = system.path("/")
    folders = [top, system.path("/boot")]
    if not system.path("/etc").exists():
        first = [path for path in _listed(top) if path.is_dir()]
        folders += [*first, *(path for folder in first for path in _listed(folder) if path.is_dir())]
    for folder in folders[:_MOST_FOUND]:
        for path in _listed(folder):
            name = path.name.lower()  # FAT tells the short ones in capitals
            aside = any(word in name for word in _ASIDE)
            if name.startswith(("initrd", "initramfs")) and not aside and path.is_file():
                yield path


def _text(path: Any) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return bytes(file.read(1 << 22))


def _holds(path: Any) -> bool | None:
    """Whether the initial RAM disk has the driver: archives one behind the other, the last of them packed."""
    with path.open("rb") as file, tempfile.TemporaryFile() as copy:
        if path.stat().st_size > _LARGEST:
            return None
        while data := file.read(_CHUNK):
            copy.write(data)
        start = _past_plain(copy)
        if start < 0:
            return True
        copy.seek(start)
        head = copy.read(6)
        tool = next((tool for mark, tool in _TOOLS.items() if head.startswith(mark)), "")
        if not tool:
            return False if not head else None
        copy.seek(start)
        return _unpacked(tool, copy)


def _past_plain(file: IO[bytes]) -> int:
    """Where the plain archives at the beginning end; -1 where the driver is in one of them. Format: cpio(5), newc."""
    at = 0
    for _ in range(_MOST_ENTRIES):
        file.seek(at)
        head = file.read(110)
        if not head.startswith((b"070701", b"070702")):
            padding = len(head) - len(head.lstrip(b"\0"))
            if not head or not padding:
                return at
            at += padding
            continue
        size, length = int(head[54:62], 16), int(head[94:102], 16)
        if _WANTED in file.read(min(length, 4096)):
            return -1
        at += (110 + length + 3) // 4 * 4
        at += (size + 3) // 4 * 4
    return at


def _unpacked(tool: str, packed: IO[bytes]) -> bool | None:
    packed.flush()
    start = packed.tell()
    try:
        with tempfile.TemporaryFile() as rest:
            packed.seek(start)
            while data := packed.read(_CHUNK):
                rest.write(data)
            rest.flush()
            rest.seek(0)
            return _searched([tool, "-dc"], rest)
    except OSError:
        return None


def _searched(argv: list[str], packed: IO[bytes]) -> bool:
    with subprocess.Popen(
        argv, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            tail, count = b"", 0
            while count < _LARGEST_UNPACKED and (data := process.stdout.read(_CHUNK)):
                count += len(data)
                data = tail + data
                if _MEMBER.search(data):
                    return True
                tail = data[-_LONGEST:]
            return False
        finally:
            process.kill()
