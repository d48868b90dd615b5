"""A million mutated structures through every parser: no crash but the declared errors, no hang, no read outside.

`python -m tests.rescue.fuzz --count 1000000 --seed 1` takes real structures of the samples, mutates them and gives
each to its parser, under a limit of 1 GiB of memory and of 10 seconds each. What a parser gives back is read as well.
"""

from __future__ import annotations

import argparse
import lzma
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from struct import pack, pack_into
from types import FrameType

from tests.rescue import guests, machines, samples
from tests.rescue.layout import FBB, FDC, ROOT, SBC
from tests.rescue.overlay import Overlay
from tests.rescue.writer import Writer, walked
from triune.disks import nvram, partitions, vmdk_descriptor, vmdk_disk, vmsd, vmware_log, vmx
from triune.disks.content import Content, Run
from triune.disks.vmfs import address, descriptor, directory, heartbeat, journal, lock, lvm, superblock
from triune.disks.vmfs import resource as resources
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import Geometry
from triune.domain.errors import NotFound, TriuneError
from triune.services.machines import ovf
from triune.services.rescue import marks

VMDKS = samples.DATA.parent / "vmdk"
LONGEST_READ = 64 << 20
SECONDS = 10
MEMORY = 1 << 30
INTERESTING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


class Outside(AssertionError):
    """A parser asked for bytes that no source has."""


class Fenced:
    """Bytes as a Source, and as the Content of a file; asking beyond them is a mistake."""

    def __init__(self, data: bytes, name: str = "fuzz") -> None:
        self._data, self.name, self.size = data, name, len(data)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size or length > LONGEST_READ:
            raise Outside(f"{length} bytes at {offset} of {self.size}")
        return self._data[offset : offset + length]

    def clipped(self, offset: int, length: int) -> bytes:
        """As a device answers: short at its end."""
        if offset < 0 or length < 0 or length > LONGEST_READ:
            raise Outside(f"{length} bytes at {offset}")
        return self._data[offset : offset + length]

    def device(self) -> Device:
        """As a disk: a read beyond its end is short."""
        return Device(self._data)

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        end = self.size if end is None else min(end, self.size)
        if start < end:
            yield Run(start, end - start, self, start)

    def close(self) -> None:
        """Nothing to let go."""


class Device(Fenced):
    """A source that answers as a device does."""

    def read(self, offset: int, length: int) -> bytes:
        return self.clipped(offset, length)


class OneFile:
    """A folder with the one file that is fuzzed, and its extents."""

    name = "fuzz"

    def __init__(self, files: dict[str, Fenced]) -> None:
        self.files = files

    def names(self) -> Sequence[str]:
        return list(self.files)

    def open(self, path: str) -> Content:
        if path not in self.files:
            raise NotFound("no_such_file", f"there is no {path}")
        return self.files[path]

    def beside(self, hint: str) -> None:
        return None


@dataclass(frozen=True)
class Target:
    """A parser, real structures for it, and how often it is worth its turn."""

    name: str
    seeds: Sequence[bytes]
    feed: Callable[[bytes], None]
    weight: int = 10


@dataclass
class Tally:
    """`done` by parser; `accepted` are those that parsed; `crashes` with how to make each again."""

    done: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


# --- mutation ---------------------------------------------------------------------------------------------------------


def mutated(seed: bytes, random: Random) -> bytes:
    """One to eight small injuries."""
    data = bytearray(seed)
    for _ in range(random.choice((1, 1, 2, 3, 5, 8))):
        if not data:
            break
        _injure(data, random)
    return bytes(data)


def _injure(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    for _ in range(3):  # what is in use says more than what isn't
        if data[at]:
            break
        at = random.randrange(min(len(data), 1024))
    kind = random.randrange(8)
    if kind <= 1:
        data[at] ^= 1 << random.randrange(8)
    elif kind == 2:
        data[at] = random.randrange(256)
    elif kind in {3, 4}:
        width = random.choice((2, 4, 8))
        at = min(at & -2, len(data) - width)
        if at >= 0:
            pack_into({2: "<H", 4: "<I", 8: "<Q"}[width], data, at, random.choice(INTERESTING) & ((1 << 8 * width) - 1))
    elif kind == 5:
        length = random.choice((4, 16, 64))
        data[at : at + length] = random.randbytes(len(data[at : at + length]))
    elif kind == 6:
        length, other = random.choice((4, 16, 512)), random.randrange(len(data))
        part = data[other : other + length][: len(data) - at]
        data[at : at + len(part)] = part
    elif random.random() < 0.3:
        del data[at:]


# --- parsers ----------------------------------------------------------------------------------------------------------


def _volume(name: str) -> tuple[Writer, Geometry]:
    writer = Writer(Overlay(samples.image(name)))
    return writer, superblock.parse(writer.read(0x200000, 4096)).geometry


def _vmfs(name: str) -> Iterator[Target]:
    writer, geometry = _volume(name)
    metas = [*walked(writer).values(), *(writer.fd(each) for each in (ROOT, FBB, FDC, SBC))]
    raws = [writer.read(meta.offset, writer.fd_size) for meta in metas[:: max(1, len(metas) // 40)] + metas[-16:]]
    yield Target(f"{name} descriptor", raws, lambda data: _descriptor(data, geometry), 25)
    yield Target(f"{name} lock", [raw[:512] for raw in raws], lambda data: _ignore(lock.parse(data)), 10)
    yield Target(f"{name} superblock", [writer.read(0x200000, 4096)], lambda data: _ignore(superblock.parse(data)), 10)
    heads = [writer.in_file(writer.area(each).meta, 0, 4096) for each in (FBB, FDC, SBC)]
    yield Target(f"{name} resource header", heads, lambda data: _resource(data, geometry), 10)
    areas = [writer.area_of(kind) for kind in (1, 2, 4)]
    clusters = [writer.read(area.header(number), writer.header) for area in areas for number in range(3)]
    yield Target(f"{name} cluster", clusters, lambda data: _ignore(resources.parse_cluster(data, geometry)), 6)
    folders = [writer.fd(ROOT), *(meta for meta in metas if meta.kind == 2)]
    listed = [writer._bytes(meta, 0, min(meta.size, 0x10000 + 6 * 4096)) for meta in folders]
    yield Target(f"{name} directory", listed, lambda data: _directory(data, geometry), 4)
    numbers = [raw[-2560:] if writer.six else raw[1024:] for raw in raws]
    yield Target(f"{name} addresses", numbers, lambda data: _addresses(data, geometry), 4)
    device = [writer.disk.read(0x100000, 0x90000)]
    yield Target(f"{name} LVM", [device[0][:512]], lambda data: _lvm(data.ljust(512, b"\0") + device[0][512:]), 6)
    shares = [device[0][at : at + 512] for at in (0x200, 0x1000)]
    slots = writer.read(0x300000, 16 * writer.block)
    beats = [slots[at : at + 512] for at in range(0, len(slots), writer.block)]
    yield Target(f"{name} heartbeat", beats, lambda data: _ignore(heartbeat.parse(data)), 5)
    yield Target(f"{name} journal", _journals(writer, geometry), lambda data: _journal(data, geometry), 2)
    yield Target(f"{name} LVM volume", shares, lambda data: _ignore(lvm.parse_share(data)), 6)


def _journals(writer: Writer, geometry: Geometry) -> list[bytes]:
    """What the hosts' journals begin with: 64 KiB around the first record that is found."""
    if writer.six:
        slots = writer.area(0x2000004)
        starts = [slots.item(cluster, 0) for cluster in range(slots.clusters)]
        starts = [start for start in starts if any(writer.read(start, 512))]
    else:
        starts = [0x5FB00000]  # no heartbeat of the sample leads there any more
    return [writer.read(start, 1 << 16) for start in starts]


def _journal(data: bytes, geometry: Geometry) -> None:
    for image in islice(journal.after_images(data, geometry), 10_000):
        repr(image.place)


def _ignore(found: object) -> None:
    repr(found)


def _descriptor(data: bytes, geometry: Geometry) -> None:
    found = descriptor.parse(data, geometry)
    found.addresses(geometry)
    found.resident(geometry)
    found.rdm(geometry)
    repr(found.levels)


def _resource(data: bytes, geometry: Geometry) -> None:
    found = resources.parse(data, geometry)
    for cluster, item in ((0, 0), (1, 1), (1000, 3)):
        with suppress(Damaged):
            found.header_offset(cluster)
            found.offset(cluster, item)


def _directory(data: bytes, geometry: Geometry) -> None:
    listing = directory.Listing(Fenced(data).clipped, len(data), geometry)
    for entry in listing.entries():
        repr(entry.name)
    if len(listing.damages) > 100_000:
        raise Outside("more damages than can be told")


def _addresses(data: bytes, geometry: Geometry) -> None:
    for value in descriptor.numbers(data[: len(data) // 8 * 8], geometry):
        if value:
            with suppress(Damaged):
                address.decode(value, geometry)


def _lvm(data: bytes) -> None:
    device = lvm.parse_device(data[:512])
    disk = Fenced(bytes(0x100000) + data)
    for extent in islice(lvm.extents(device, lambda offset, length: disk.clipped(offset, length)), 10_000):
        repr(extent)


def _vmdks() -> Iterator[Target]:
    files = {path.name.removesuffix(".xz"): _unpacked(path) for path in VMDKS.iterdir() if path.name != "README"}
    texts = [data for data in files.values() if data.lstrip().lower().startswith(b"# disk")]
    yield Target("VMDK descriptor", texts, lambda data: _ignore(vmdk_descriptor.parse(data)), 6)
    described = {name: data for name, data in files.items() if data in texts}
    extents = {name: Fenced(data[: 1 << 20]) for name, data in files.items() if name not in described}
    yield Target("VMDK by its descriptor", texts, lambda data: _disk({**extents, "fuzz.vmdk": Fenced(data)}), 2)
    sparse = [data[: 1 << 18] for data in files.values() if data[:4] in {b"KDMV", b"COWD", b"\xca\xfe\xba\xbe"}]
    yield Target("VMDK sparse", sparse, lambda data: _disk({"fuzz.vmdk": Fenced(data)}), 2)


def _unpacked(path: samples.Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _disk(files: dict[str, Fenced]) -> None:
    disk = vmdk_disk.open_disk(OneFile(files), "fuzz.vmdk")
    for run in islice(disk.runs(0, disk.size), 200):
        if run.source is not None and not run.missing:
            run.source.read(run.at, min(run.length, 4096))


VMX = b""".encoding = "UTF-8"\r
displayName = "web"
scsi0:0.fileName = "a b.vmdk"
# note
memSize = "4096"
name = "|22x|7C"
"""
VMSD = b""".encoding = "UTF-8"
snapshot.lastUID = "2"
snapshot.current = "2"
snapshot0.uid = "1"
snapshot0.filename = "web-Snapshot1.vmsn"
snapshot0.displayName = "first"
snapshot0.createTimeHigh = "391000"
snapshot0.createTimeLow = "-1500000000"
snapshot0.numDisks = "1"
snapshot0.disk0.fileName = "web.vmdk"
snapshot0.disk0.node = "scsi0:0"
snapshot1.uid = "2"
snapshot1.parent = "1"
snapshot1.numDisks = "1"
snapshot1.disk0.fileName = "web-000001.vmdk"
snapshot1.disk0.node = "scsi0:0"
snapshot.numSnapshots = "2"
"""
VMXF = b"""<?xml version="1.0"?>
<Foundry><VM><VMId type="string">52 4b 0c</VMId><vmxPathName type="string">web.vmx</vmxPathName></VM></Foundry>
"""
OVF = b"""<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:href="web-disk1.vmdk" ovf:id="file1" ovf:size="131072"/></References>
<DiskSection><Info>d</Info><Disk ovf:capacity="10" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1"
 ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<VirtualSystem ovf:id="web"><Name>web</Name><OperatingSystemSection ovf:id="96"><Info>os</Info></OperatingSystemSection>
<VirtualHardwareSection><Info>h</Info>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
<rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType>
<rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:Address>0</rasd:Address></Item>
<Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>3</rasd:Parent>
<rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>
"""
MBR = (
    bytes(446)
    + pack("<BBBBBBBBII", 0x80, 1, 1, 0, 0x83, 254, 255, 255, 63, 1000) * 2
    + pack("<BBBBBBBBII", 0, 1, 1, 0, 5, 254, 255, 255, 3, 40)
    + bytes(16)
    + b"\x55\xaa"
    + bytes(30000)
)


def _machines() -> Iterator[Target]:
    """What stands beside a disk, and what is on one."""
    settings = machines.VMX.format(name="web", guest="debian11-64", firmware="efi", memory=512, cpus=1)
    lines = "\n".join(f"2026-05-04T07:40:00.030Z| vmx| I005: DICT {line}" for line in settings.splitlines())
    log = machines.LOG.format(name="web", label="store", lines=lines).encode()
    yield Target("VMX", [VMX, settings.encode()], lambda data: _ignore(list(vmx.Vmx.parse(data).items())), 6)
    yield Target("vmware.log", [log], lambda data: _ignore(vmware_log.settings_of(data)), 3)
    yield Target("VMSD", [VMSD], lambda data: _ignore(vmsd.snapshots(data)), 5)
    yield Target("VMXF", [VMXF], lambda data: _ignore(vmsd.machine_ids(data)), 5)
    yield Target("NVRAM", [_nvram()], lambda data: _ignore(nvram.read_nvram(data)), 5)
    yield Target("OVF", [OVF], lambda data: _ignore(ovf.describe(data)), 3)
    disk = guests.gpt_disk(4 << 20, 1, 7)
    whole = disk.part(0, disk.size)
    tables = [whole[:17408] + whole[-16896:], MBR]
    yield Target("partitions", tables, lambda data: _ignore(partitions.read_partitions(Fenced(data).device())), 4)


def _nvram() -> bytes:
    """The head of VMware's file, a block of settings and one of EFI variables."""
    name = "PK\0".encode("utf-16-le")
    volume = pack("<16sIII", bytes(range(16)), 7, len(name), 64) + name + bytes(64)
    return (
        b"MRVN" + pack("<II", 1, 2) + b"MOCS" + pack("<I", 64) + bytes(64) + b"EFIN" + pack("<I", len(volume)) + volume
    )


def _marked() -> Iterator[Target]:
    """The pass over a source: 64 KiB with the metadata of both versions in it."""
    seeds = []
    for name in ("vmfs5", "vmfs6"):
        writer = Writer(Overlay(samples.image(name)))
        starts = (0x200000, 0x300000, writer.fdc_start, writer.first_fd)
        seeds.append(b"".join(writer.read(at, 16384) for at in starts))
    yield Target("marks", seeds, lambda data: _ignore(list(marks.find(data, 0, len(data)))), 2)


def targets() -> list[Target]:
    """Every parser."""
    return [*_vmfs("vmfs5"), *_vmfs("vmfs6"), *_vmdks(), *_machines(), *_marked()]


# --- runs -------------------------------------------------------------------------------------------------------------


class Hang(Exception):
    """A parser took longer than SECONDS."""


def _ring(number: int, frame: FrameType | None) -> None:
    raise Hang


def run(found: Sequence[Target], count: int, seed: int) -> Tally:
    """So many mutations, spread over the parsers by their weights. `seed + number` makes each one again."""
    tally = Tally()
    weights = [target.weight for target in found]
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        for number in range(count):
            random = Random(seed + number)
            target = random.choices(found, weights)[0]
            _one(target, mutated(random.choice(target.seeds), random), seed + number, tally)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return tally


def _one(target: Target, data: bytes, seed: int, tally: Tally) -> None:
    begun = time.perf_counter()
    signal.alarm(SECONDS)
    try:
        target.feed(data)
        tally.accepted[target.name] += 1
    except TriuneError:
        pass  # what a parser declares
    except (Exception, MemoryError):
        tally.crashes.append(f"{target.name} #{seed}: {traceback.format_exc(limit=-4)}")
    finally:
        signal.alarm(0)
    tally.done[target.name] += 1
    tally.slowest = max(tally.slowest, (time.perf_counter() - begun, f"{target.name} #{seed}"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="parsers whose name has this in it")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = [target for target in targets() if given.only in target.name]
    begun = time.monotonic()
    tally = run(found, given.count, given.seed)
    for crash in tally.crashes[:20]:
        print(crash)
    for name, done in sorted(tally.done.items()):
        print(f"{name:28} {done:9} mutated, {tally.accepted[name]:9} still accepted")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{tally.done.total()} structures in {time.monotonic() - begun:.0f} s: {len(tally.crashes)} crashes; slowest "
        f"{tally.slowest[0] * 1000:.0f} ms ({tally.slowest[1]}); most memory {most} MiB of {MEMORY >> 20}."
    )
    return 1 if tally.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
