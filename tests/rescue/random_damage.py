"""Ten thousand random damages: nothing may be called whole that isn't.

`python -m tests.rescue.random_damage --count 10000 --seed 1` flips, zeroes, overwrites, swaps and ages metadata of real
volumes in memory, reads them as healthy ones and as scanned ones, and compares every file that is called intact or
recovered with what it was.

Some damages nobody can tell, for VMFS keeps no checksums of them, and they are counted apart: bytes of the files
themselves ("data"), a length that still lies within the same blocks ("length"), an entry of an older time put back
over a newer one ("older"), a letter of a name ("named"). "told on reading" are files
whose listing had no fault, and whose missing bytes are reported as soon as they are read, as extracting does.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.rescue import oracle, samples, subject
from tests.rescue.layout import DOUBLE, FBB, FDC, RESIDENT, ROOT, SBC, Meta
from tests.rescue.machines import add_machine
from tests.rescue.oracle import Fact
from tests.rescue.overlay import PAGE, Overlay
from tests.rescue.scoring import WHOLE, digest_of
from tests.rescue.writer import Content, Writer, walked
from triune.disks.content import Lost
from triune.domain.errors import TriuneError
from triune.domain.rescue import FileKind, Found
from triune.services.rescue.volume import Volume

MIB = 1 << 20
CHUNK = 100  # damages between two lines of the report
MEMORY = 4 << 30  # of address space
WAYS: dict[str, Callable[..., Sequence[Volume]]] = {
    "opened": subject.opened,
    "read": subject.read,
    "scanned": subject.scanned,
}


@dataclass(frozen=True)
class Region:
    """A piece of metadata, on the image. `unit` is what is swapped and aged as one."""

    label: str
    offset: int
    length: int
    unit: int


@dataclass
class Small:
    """A volume small enough to be damaged thousands of times, and what is on it."""

    name: str
    writer: Writer
    older: Overlay
    facts: dict[str, Fact]
    old_facts: dict[str, Fact]
    metas: dict[str, Meta]
    regions: dict[str, list[Region]]


@dataclass
class Tally:
    """What came of it. `wrong` says which damage made which file wrong."""

    runs: int = 0
    whole: int = 0
    other: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, other: Tally) -> None:
        """Both together."""
        self.runs += other.runs
        self.whole += other.whole
        self.other += other.other
        self.excused.update(other.excused)
        self.wrong += other.wrong
        self.crashes += other.crashes
        self.slowest = max(self.slowest, other.slowest)

    def __str__(self) -> str:
        excused = ", ".join(f"{word} {n}" for word, n in sorted(self.excused.items())) or "nothing"
        return (
            f"{self.runs} damages: {self.whole} files called whole and right, {len(self.wrong)} called whole and "
            f"wrong, {self.other} not called whole; {len(self.crashes)} crashes; slowest {self.slowest:.1f} s; "
            f"counted apart: {excused};"
        )


def small(name: str) -> Small:
    """A sample with two machines more, its own long file thinned out. Most samples are empty: those are quick."""
    disk = Overlay(samples.image(name))
    writer = Writer(disk)
    bigger = walked(writer).get("bigger")
    for address in writer.addresses(bigger) if bigger else []:
        disk.zero(writer.base + writer.at(address) + PAGE, writer.file_block - PAGE)
    older = disk.packed()
    writer = Writer(older.fork())
    for each, where in (("web", True), ("db", False)):
        pieces = {n * 5 * MIB: bytes([n + 1]) * 3000 for n in range(12)}
        add_machine(writer, each, Content(400 * MIB, pieces, frozenset({1, 2})), scattered=where)
    listed = Content(9 * MIB, {n * MIB: bytes([65 + n]) * 5000 for n in range(0, 9, 2)})
    writer.make_file("web/listed", listed, scattered=True)
    thin = Content(1 << 40, {n * MIB: bytes([97 + n % 26]) * 4096 for n in (0, 7, 400_000, 1_048_575)})
    writer.make_file("db/thin-flat.vmdk", thin, scattered=True)
    facts = oracle.facts(oracle.dissect(writer.disk))
    metas = walked(writer)
    old = oracle.facts(oracle.dissect(older))
    return Small(name, writer, older, facts, old, metas, _regions(writer, metas))


def _regions(writer: Writer, metas: dict[str, Meta]) -> dict[str, list[Region]]:
    """Where the metadata is, by what it is."""
    base, header = writer.base, writer.header
    found = {
        "lvm": [Region("lvm", 0x100000, 4096, 512)],
        "superblock": [Region("superblock", base + 0x200000, 512, 512)],
        "heartbeats": [Region("heartbeats", base + 0x300000, 16 * writer.block, writer.block)],
    }
    found["descriptor"] = [
        Region("descriptor", base + meta.offset, _told(writer, meta), writer.fd_size) for meta in metas.values()
    ]
    system = [writer.fd(address) for address in (ROOT, FBB, FDC, SBC)]
    found["system"] = [Region("system", base + meta.offset, writer.fd_size, writer.fd_size) for meta in system]
    found["folder"] = [
        Region("folder", base + writer.at(address), min(meta.block_size, 65536), writer.block)
        for meta in [system[0], *(meta for meta in metas.values() if meta.kind == 2)]
        for address in meta.blocks
        if address
    ]
    found["pointers"] = [
        Region("pointers", base + writer.at(address), 65536 if writer.six else 4096, 4096)
        for meta in metas.values()
        if meta.zla in {3, DOUBLE}
        for address in _pointer_blocks(writer, meta)
    ]
    found["clusters"] = [
        Region("clusters", base + area.header(cluster), header, header)
        for area in (writer.area_of(kind) for kind in (1, 2, 4))
        for cluster in range(min(area.clusters, 12))
    ]
    return found


def _told(writer: Writer, meta: Meta) -> int:
    """Bytes of a descriptor that are metadata: what is resident is the file itself."""
    return writer.block + 0x90 if meta.zla == RESIDENT else writer.fd_size


def _pointer_blocks(writer: Writer, meta: Meta) -> Iterator[int]:
    listed = [address for address in meta.blocks if address]
    yield from listed
    if meta.zla == DOUBLE:
        for address in listed:
            yield from (each for n in range(1024) if (each := writer.pointer(address, n)))


# --- damages ----------------------------------------------------------------------------------------------------------


def damage(one: Small, random: Random) -> tuple[Overlay, list[str]]:
    """A damaged copy, and what was done to it."""
    disk = one.writer.disk.fork()
    return disk, [random.choice(KINDS)(one, disk, random) for _ in range(random.choice((1, 1, 1, 2, 3)))]


def _some(one: Small, random: Random) -> Region:
    return random.choice(one.regions[random.choice(list(one.regions))])


def _flip(one: Small, disk: Overlay, random: Random) -> str:
    region = _some(one, random)
    at = region.offset + _where(disk, region, random)
    bit = random.randrange(8)
    for byte in disk.read(at, 1):  # none where the end was cut off before
        disk.write(at, bytes([byte ^ 1 << bit]))
    return f"flip {region.label} at {at:#x} bit {bit}"


def _where(disk: Overlay, region: Region, random: Random) -> int:
    """A byte of a region; one in use, most of the time."""
    if random.random() < 0.7:
        raw = disk.read(region.offset, region.length)
        used = [n for n, byte in enumerate(raw) if byte]
        if used:
            return random.choice(used)
    return random.randrange(region.length)


def _scribble(one: Small, disk: Overlay, random: Random) -> str:
    region = _some(one, random)
    length = random.choice((1, 2, 4, 8, 64, 512))
    at = region.offset + min(_where(disk, region, random), max(0, region.length - length))
    disk.write(at, random.randbytes(length))
    return f"scribble {region.label} at {at:#x}, {length}"


def _zero(one: Small, disk: Overlay, random: Random) -> str:
    region = _some(one, random)
    length = random.choice((4, 8, 512, region.unit, region.unit, region.length))
    at = region.offset + random.randrange(0, max(1, region.length - length + 1), 4)
    disk.zero(at, length)
    return f"zero {region.label} at {at:#x}, {length}"


def _swap(one: Small, disk: Overlay, random: Random) -> str:
    label = random.choice([each for each in one.regions if each != "pointers"])
    first, second = random.choice(one.regions[label]), random.choice(one.regions[label])
    unit = first.unit
    here = first.offset + random.randrange(max(1, first.length // unit)) * unit
    there = second.offset + random.randrange(max(1, second.length // unit)) * unit
    ours, theirs = disk.read(here, unit), disk.read(there, unit)
    disk.write(here, theirs)
    disk.write(there, ours)
    return f"swap {label} {here:#x} and {there:#x}, {unit}"


def _age(one: Small, disk: Overlay, random: Random) -> str:
    region = _some(one, random)
    at = region.offset + random.randrange(max(1, region.length // region.unit)) * region.unit
    disk.write(at, one.older.read(at, region.unit))
    return f"age {region.label} at {at:#x}, {region.unit}"


def _cut(one: Small, disk: Overlay, random: Random) -> str:
    size = random.randrange(MIB, disk.size)
    disk.truncate(size)
    return f"cut to {size:#x}"


KINDS = (_flip, _flip, _flip, _scribble, _scribble, _zero, _zero, _swap, _age, _cut)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def judge(one: Small, disk: Overlay, volumes: Sequence[Volume], tally: Tally, told: str) -> None:
    """Look at every file of every volume."""
    known = {(fact.size, fact.digest) for fact in one.facts.values() if fact.digest}
    for volume in volumes:
        for found in volume.walk():
            if found.kind not in {FileKind.FILE, FileKind.LINK} or found.status not in WHOLE:
                tally.other += 1
                continue
            why = _verdict(one, disk, volume, found, known)
            if not why:
                tally.whole += 1
            elif why.startswith("!"):
                tally.wrong.append(f"{one.name}: {told}: {found.path} ({found.status}) {why[1:]}")
            else:
                tally.excused[why] += 1


def _verdict(one: Small, disk: Overlay, volume: Volume, found: Found, known: set[tuple[int, str]]) -> str:
    """Empty when it is right, a word when nobody could know, an exclamation when it is wrong."""
    try:
        key = found.size, digest_of(volume, found)
    except Lost:
        return "told on reading"
    fact = one.facts.get(found.path)
    if key in known:
        return "named" if fact is not None and fact.digest and key != (fact.size, fact.digest) else ""
    older = one.old_facts.get(found.path)
    if older is not None and key == (older.size, older.digest):
        return "older"
    for path in [found.path] if found.path in one.metas else one.metas:
        if one.metas[path].size == found.size and key[1] == digest_now(one, disk, path, found.size):
            return "data"
    if _only_length(one, disk, volume, found):
        return "length"
    return f"!holds {key[0]} bytes {key[1][:12]}"


def digest_now(one: Small, disk: Overlay, path: str, size: int) -> str:
    """The digest of what is now where the file's bytes were, by the map that it had."""
    return oracle.digest_of(_now(one, disk, one.metas[path], size), size)


def _now(one: Small, disk: Overlay, meta: Meta, size: int) -> Iterator[tuple[int, bytes]]:
    writer = one.writer
    if meta.zla == RESIDENT:
        yield 0, disk.read(writer.base + meta.offset + writer.resident_at(), min(size, writer.resident()))
        return
    for number, address in _map(writer, meta):
        at = number * meta.block_size
        tbz = address >> 7 & 0xFF if writer.six else address & 0x20
        if at < size and not (tbz and address & 7 == 1):
            yield at, disk.read(writer.base + writer.at(address), min(meta.block_size, size - at))


def _map(writer: Writer, meta: Meta) -> Iterator[tuple[int, int]]:
    """(number, address) of a file's blocks."""
    if meta.zla in {1, 2}:
        yield from ((n, address) for n, address in enumerate(meta.blocks) if address)
        return
    per = 8192 if writer.six else 1024
    tops = [(n, address) for n, address in enumerate(meta.blocks) if address]
    if meta.zla == DOUBLE:
        tops = [(n * per + m, e) for n, address in tops for m in range(per) if (e := writer.pointer(address, m))]
    for top, pointer in tops:
        yield from ((top * per + n, e) for n in range(per) if (e := writer.pointer(pointer, n)))


def _only_length(one: Small, disk: Overlay, volume: Volume, found: Found) -> bool:
    """Whether the bytes are right, and there are a few more or fewer within the same blocks."""
    paths = [found.path] if found.path in one.metas else list(one.metas)
    for path in paths:
        meta = one.metas[path]
        unit = one.writer.resident() if meta.zla == RESIDENT else meta.block_size
        near = -(-meta.size // unit) == -(-found.size // unit) or _unlisted(one, meta, found.size, unit)
        if near and digest_of(volume, found) == digest_now(one, disk, path, found.size):
            return True
    return False


def _unlisted(one: Small, meta: Meta, size: int, unit: int) -> bool:
    """Whether the blocks between the two lengths are holes: those tell nothing of where the file ends."""
    low, high = sorted((-(-meta.size // unit), -(-size // unit)))
    return meta.zla != RESIDENT and not any(low <= number < high for number, _ in _map(one.writer, meta))


# --- runs -------------------------------------------------------------------------------------------------------------


def run(volumes: Sequence[Small], count: int, seed: int, ways: Sequence[str]) -> Tally:
    """So many damages; each is read in all the ways. `seed + number` makes each one again."""
    tally = Tally()
    for number in range(count):
        random = Random(seed + number)
        one = random.choice(volumes)
        disk, what = damage(one, random)
        for way in ways:
            begun = time.perf_counter()
            told = f"#{seed + number} {way}: {', '.join(what)}"
            try:
                judge(one, disk, WAYS[way](disk), tally, told)
            except TriuneError:
                tally.excused["refused"] += 1
            except Exception:
                tally.crashes.append(f"{one.name}: {told}: {traceback.format_exc(limit=-3)}")
            tally.slowest = max(tally.slowest, time.perf_counter() - begun)
        tally.runs += 1
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--volumes", default="vmfs5,vmfs6,vmfs5-resource-optimized,vmfs6-resource-optimized")
    parser.add_argument("--ways", default="read")
    given = parser.parse_args()
    # A damage that makes us take all memory is a crash of ours, not of the machine.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    volumes = [small(name) for name in given.volumes.split(",")]
    begun = time.monotonic()
    total = Tally()
    for done in range(0, given.count, CHUNK):
        tally = run(volumes, min(CHUNK, given.count - done), given.seed + done, given.ways.split(","))
        total.add(tally)
        for line in [*tally.wrong, *tally.crashes]:
            print(line)
        print(f"{total} in {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if total.wrong or total.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
