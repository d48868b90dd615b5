"""Virtual disks for tests: folders in memory, a writer of COWD and seSparse extents, and QEMU as the oracle."""

from __future__ import annotations

import lzma
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from triune.disks.content import Content, Run
from triune.disks.stream import SourceContent
from triune.disks.vmdk_disk import Disk, Folder
from triune.domain.errors import NotFound

DATA = Path(__file__).parent / "data/rescue/vmdk"
SECTOR = 512


class Bytes:
    """Bytes as a source."""

    def __init__(self, data: bytes, name: str = "bytes") -> None:
        self.held, self.name, self.size = data, name, len(data)

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and length >= 0
        return self.held[offset : offset + length]

    def close(self) -> None:
        """Nothing."""


class Holed:
    """Bytes as content, ranges of them missing."""

    def __init__(self, data: bytes, missing: Iterable[tuple[int, int]]) -> None:
        self.source, self.size, self.missing = Bytes(data), len(data), sorted(missing)

    def runs(self, start: int = 0, end: int | None = None):
        end = self.size if end is None else min(end, self.size)
        for offset, length in self.missing:
            if offset + length <= start or offset >= end:
                continue
            if offset > start:
                yield Run(start, offset - start, self.source, start)
            begin, start = max(offset, start), min(end, offset + length)
            yield Run(begin, start - begin, why="torn")
        if start < end:
            yield Run(start, end - start, self.source, start)


class MemoryFolder:
    """Files by name."""

    def __init__(self, files: dict[str, bytes | Content], name: str = "folder") -> None:
        self.files, self.name = files, name

    def names(self) -> Sequence[str]:
        return sorted(self.files)

    def open(self, path: str) -> Content:
        if path not in self.files:
            raise NotFound("no_source", f"there is no {path!r}", hint="")
        found = self.files[path]
        return SourceContent(Bytes(found, path)) if isinstance(found, bytes) else found

    def beside(self, hint: str) -> tuple[Folder, str] | None:
        return None


def sample(name: str) -> bytes:
    """A file that VMware wrote."""
    path = DATA / name
    return path.read_bytes() if path.exists() else lzma.decompress((DATA / f"{name}.xz").read_bytes())


def samples() -> dict[str, bytes]:
    """All of them."""
    return {path.name.removesuffix(".xz"): sample(path.name.removesuffix(".xz")) for path in DATA.glob("*.vmdk*")}


def whole(disk: Disk | Content) -> tuple[bytes, list[tuple[int, int, str]]]:
    """The disk's bytes, zeros for what is missing, and what is missing. Holds the runs to their promise."""
    data, missing, position = bytearray(), [], 0
    for run in disk.runs():
        assert run.offset == position and run.length > 0
        position += run.length
        if run.missing:
            missing.append((run.offset, run.length, run.why))
        part = run.source.read(run.at, run.length) if run.source and not run.missing else bytes(run.length)
        assert len(part) == run.length
        data += part
    assert position == disk.size
    return bytes(data), missing


def oracle(path: Path, form: str = "vmdk") -> bytes:
    """What QEMU makes of it."""
    raw = path.with_name(path.name + ".oracle")
    subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", path, raw], check=True)
    try:
        return raw.read_bytes()
    finally:
        raw.unlink()


def from_raw(raw: Path, disk: Path, subformat: str) -> None:
    """Make a VMDK of a raw disk."""
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, disk], check=True
    )


def cowd(size: int, grains: dict[int, bytes], grain: int = 1) -> bytes:
    """A snapshot's extent as ESXi before VMFS6 wrote them: header of 4 sectors, directory, tables, grains."""
    tables = -(-size // SECTOR // (grain * 4096))
    directory_sectors = -(-tables * 4 // SECTOR)
    place = 4 + directory_sectors
    directory, body = [0] * tables, bytearray()
    for table in sorted({number // 4096 for number in grains}):
        directory[table] = place
        inside = {number % 4096: data for number, data in grains.items() if number // 4096 == table}
        entries, place = [0] * 4096, place + 4096 * 4 // SECTOR
        stored = bytearray()
        for entry, data in sorted(inside.items()):
            entries[entry] = place
            stored += data.ljust(grain * SECTOR, b"\0")
            place += grain
        body += struct.pack("<4096I", *entries) + stored
    head = struct.pack("<4sIIIIIII", b"COWD", 1, 3, size // SECTOR, grain, 4, tables, place)
    packed = struct.pack(f"<{tables}I", *directory)
    return head.ljust(4 * SECTOR, b"\0") + packed.ljust(directory_sectors * SECTOR, b"\0") + bytes(body)


def sesparse(size: int, entries: dict[int, bytes | int], *, replay: int = 0) -> bytes:
    """A snapshot's extent as on VMFS6. `entries` by grain of 4 KiB: its bytes, or the nibble 1 or 2 without any."""
    grain, table = 8, 64
    tables = -(-size // SECTOR // (grain * 4096))
    directory_sectors = -(-tables * 8 // SECTOR)
    used = sorted({number // 4096 for number in entries})
    directory_at, tables_at = 8, 8 + directory_sectors
    grains_at = -(-(tables_at + len(used) * table) // 8) * 8
    directory, body, data = [0] * tables, bytearray(), bytearray()
    for place, number in enumerate(used):
        directory[number] = 0x1000000000000000 | place
        numbers = [0] * 4096
        for key, value in entries.items():
            if key // 4096 != number:
                continue
            if isinstance(value, int):
                numbers[key % 4096] = value << 60
            else:
                index = len(data) // 4096
                numbers[key % 4096] = 3 << 60 | (index & 0xFFF) << 48 | index >> 12
                data += value.ljust(4096, b"\0")
        body += struct.pack("<4096Q", *numbers)
    fields = [0] * 26
    fields[:5] = [0xCAFEBABE, 0x200000001, size // SECTOR, grain, table]
    fields[10:12] = [1, 1]
    fields[16:20] = [directory_at, directory_sectors, tables_at, len(used) * table]
    fields[24:26] = [grains_at, len(data) // SECTOR]
    out = bytearray(struct.pack("<26Q", *fields).ljust(SECTOR, b"\0"))
    out += struct.pack("<4Q", 0xCAFECAFE, 0, 0, replay).ljust(7 * SECTOR, b"\0")
    out += struct.pack(f"<{tables}Q", *directory).ljust(directory_sectors * SECTOR, b"\0")
    out += body
    return bytes(out.ljust(grains_at * SECTOR, b"\0") + data)
