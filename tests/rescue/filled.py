"""The volumes of the matrix: samples with files on them. Most samples are empty, so files are added to these."""

from __future__ import annotations

from dataclasses import dataclass

from tests.rescue import oracle, samples
from tests.rescue.layout import BASE, u64
from tests.rescue.machines import add_machine
from tests.rescue.oracle import Fact
from tests.rescue.overlay import Joined, Overlay
from tests.rescue.writer import Content, Writer

MIB = 1 << 20
FILLED = {"vmfs5", "vmfs6"}  # these two come with 127 files of their own
WITHOUT_LVM = {"vmfs5d", "vmfs6d", "vmfs5ld", "vmfs6ld"}


@dataclass
class Filled:
    """A volume, the writer that knows where all is, and what an independent reader sees on it."""

    name: str
    writer: Writer
    facts: dict[str, Fact]

    @property
    def disk(self) -> Overlay | Joined:
        return self.writer.disk


def filled(name: str) -> Filled:
    """One by the name of its sample."""
    disks = [Overlay(path) for path in samples.images(name)]
    writer = _writer(name, disks)
    if name not in FILLED:
        _fill(writer)
    return Filled(name, writer, oracle.facts(oracle.dissect(*disks, lvm=name not in WITHOUT_LVM)))


def _writer(name: str, disks: list[Overlay]) -> Writer:
    if len(disks) > 1:
        return Writer(Joined([(disk, BASE, _share(disk)) for disk in disks]), 0)
    return Writer(disks[0], 0 if name in WITHOUT_LVM else BASE)


def _share(disk: Overlay) -> int:
    """Bytes of the logical volume that a device holds: PEs of 256 MiB on VMFS5, one run on VMFS6."""
    head = disk.read(0x100000, 0x2000)
    entry = 0x200 if head[4] < 6 else 0x1000
    first, last = u64(head, entry + 0x78), u64(head, entry + 0x80)
    return (last - first + 1) * 256 * MIB


def _fill(writer: Writer) -> None:
    pieces = {n * 7 * MIB: bytes([n + 1]) * 3000 for n in range(30)}
    for name, scattered in (("web", True), ("db", False)):
        add_machine(writer, name, Content(400 * MIB, pieces), scattered=scattered)
    writer.make_folder("isos")
    writer.make_file("isos/debian.iso", Content(12 * MIB, {n * MIB: bytes([65 + n]) * 5000 for n in range(12)}))
    writer.make_file("isos/notes", b"a few words\n")
    thin = {n * MIB: bytes([97 + n % 26]) * 4096 for n in (0, 7, 400_000, 1_048_575)}
    writer.make_file("db/thin-flat.vmdk", Content(1 << 40, thin), scattered=True)
