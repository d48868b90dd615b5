"""Deleted files: what can be said of them, and what of their bytes is still where it was.

Deleting a file clears its size and its block list in the FD and frees its blocks; the FD's other facts, the pointer
blocks and the bytes stay until something else is written there. So a deleted file is never more than likely: its status
is `deleted`, with a confidence, its reasons, and the ranges that are missing or only assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from triune.disks.content import Content, read
from triune.disks.vmdk_descriptor import looks_like, parse
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.descriptor import FileType
from triune.disks.vmfs.volume import Missing
from triune.domain.errors import TriuneError
from triune.domain.rescue import FileKind, Found, Status
from triune.services.rescue.deleted_disks import Disk, Disks, Pieced
from triune.services.rescue.deleted_journal import images
from triune.services.rescue.deleted_tables import Table, span
from triune.services.rescue.generations import Generation, Node, parsed
from triune.services.rescue.ranges import Ranges
from triune.services.rescue.rebuild_checks import places
from triune.services.rescue.rebuild_guesses import LOST
from triune.services.rescue.rebuild_maps import Maps
from triune.services.rescue.rebuild_names import Names

_LARGEST_DESCRIPTOR = 64 << 10
_MOST_FRAGMENTS = 10_000
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """A disk that a descriptor names and that is not there: `folder` is the address of its folder's FD."""

    path: str
    folder: int
    size: int


class Deleted:
    """The deleted files of a volume, each with its content. `claimed` are ranges of the volume that files have."""

    def __init__(self, generation: Generation, maps: Maps, names: Names, claimed: Ranges) -> None:
        self._generation, self._maps, self._names, self._claimed = generation, maps, names, claimed
        self._geometry = maps.geometry
        self._wanted = list(self._missing_disks())
        self._nodes = {address: node for address, node in generation.nodes.items() if self._is_deleted(node)}
        self.files: dict[str, tuple[Found, Content]] = {}
        self._from_journals()
        disks = Disks(generation, maps, claimed, {wanted.size for wanted in self._wanted})
        for disk in disks.found:
            self._add_disk(disk)
        for table in disks.rest[:_MOST_FRAGMENTS]:
            self._add_fragment(table)
        for address, node in self._nodes.items():
            self._add_empty(address, node)

    def _is_deleted(self, node: Node) -> bool:
        descriptor = node.descriptor
        if descriptor.type not in (FileType.FILE, FileType.LINK, FileType.RDM):
            return False
        return descriptor.links == 0 or (node.used is False and descriptor.address not in self._names.found)

    def _missing_disks(self) -> Iterator[Wanted]:
        """What the descriptors of today name and no folder has."""
        known = {(name.parent, name.name) for name in self._names.found.values()}
        for address, node in self._generation.nodes.items():
            descriptor = node.descriptor
            if descriptor.type != FileType.FILE or not 0 < descriptor.length <= _LARGEST_DESCRIPTOR:
                continue
            name = self._names.found.get(address)
            folder = name.parent if name is not None else descriptor.parent
            for extent, size in self._extents(node):
                if (folder, extent) not in known:
                    above = self._names.path(folder)
                    yield Wanted(f"{above}/{extent}" if above else extent, folder, size)

    def _extents(self, node: Node) -> Iterator[tuple[str, int]]:
        loaded = parsed(self._generation.read(node.place, self._geometry.descriptor_size), self._geometry)
        if loaded is None:
            return
        try:
            data = read(FileContent(loaded, self._maps.resources), 0, loaded.length)
            if not looks_like(data[:_SECTOR]):
                return
            for extent in parse(data).extents:
                name = extent.name
                if name and "/" not in name and extent.sectors > 0:
                    yield name, extent.sectors * _SECTOR
        except TriuneError:
            return

    def _from_journals(self) -> None:
        for image in images(self._generation, self._geometry):
            node = self._nodes.get(image.address)
            if node is None or node.descriptor.generation != image.generation:
                continue
            content = FileContent(image, self._maps.resources)
            lost = list(self._overwritten(content))
            name = self._name(image.parent, image.length) or f"{LOST}/deleted/{image.address:08x}"
            missing = Ranges(lost).fewest()
            found = Found(
                path=name,
                key=f"journal:{image.address:x}.{image.generation:x}",
                kind=FileKind.FILE,
                size=image.length,
                status=Status.DELETED,
                modified=image.modified,
                mode=image.mode & 0o7777,
                uid=image.uid,
                gid=image.gid,
                missing=missing,
                confidence=0.3 if missing else 0.9,
                reasons=("its file descriptor as it was stands in a journal",),
                evidence=("journal", "file descriptor"),
            )
            del self._nodes[image.address]
            self._add(found, content)

    def _overwritten(self, content: Content) -> Iterator[tuple[int, int]]:
        for run in content.runs():
            if run.missing:
                yield run.offset, run.length
            elif run.source is not None:
                for place, length in places(self._generation.space, run):
                    if next(self._claimed.within(place, length), None) is not None:
                        yield run.offset, run.length

    def _name(self, folder: int, size: int) -> str:
        """What the only descriptor calls a disk of that size; of a known folder, in it."""
        fits = [one for one in self._wanted if one.size == size and (not folder or one.folder == folder)]
        if len({one.path for one in fits}) != 1:
            return ""
        self._wanted.remove(fits[0])
        return fits[0].path

    def _add_disk(self, disk: Disk) -> None:
        folder = next((one.folder for one in self._wanted if one.size == disk.size), 0)
        path = self._name(0, disk.size)
        node = self._former_node(folder) if path else None
        content = Pieced(disk, self._geometry, self._generation.space)
        missing = [(run.offset, run.length) for run in content.runs() if run.missing]
        per = span(self._geometry)
        sure = not missing and not disk.assumed
        if disk.single and disk.assumed:
            missing = [(0, disk.size)]
        elif disk.assumed:
            missing += [(place * per, min(per, disk.size - place * per)) for place in disk.assumed]
        known = 1 - sum(length for _, length in missing) / max(1, disk.size)
        proofs = ["a guest's partition table at its begin"]
        if disk.tail:
            proofs.append("the guest's second GPT at its end")
        found = Found(
            path=path or f"{LOST}/deleted/disk at block {disk.head}-flat.vmdk",
            key=f"disk:{disk.head:x}",
            kind=FileKind.FILE,
            size=disk.size,
            status=Status.DELETED,
            modified=node.descriptor.modified if node is not None else 0,
            missing=Ranges(missing).fewest(),
            confidence=(0.95 if disk.tail else 0.7) if sure else round(max(0.1, 0.6 * known), 3),
            reasons=("deleted: its blocks are free, and may have been written to since", *disk.reasons),
            evidence=(*proofs, *(("a descriptor of that size",) if path else ())),
        )
        self._add(found, content)

    def _former_node(self, folder: int) -> Node | None:
        """The one deleted FD of a folder that had blocks; it is no file of its own then."""
        fits = [
            address
            for address, node in self._nodes.items()
            if node.descriptor.parent == folder and node.descriptor.block_size == self._geometry.file_block
        ]
        return self._nodes.pop(fits[0]) if folder and len(fits) == 1 else None

    def _add_fragment(self, table: Table) -> None:
        import numpy as np

        last = int(np.flatnonzero(table.numbers >= 0)[-1]) if (table.numbers >= 0).any() else -1
        if last < 0:
            return
        size = (last + 1) * self._geometry.file_block
        where = table.address
        name = f"{where.kind.name.lower()}-{where.cluster}-{where.item}"
        disk = Disk(size, table.block(0), {0: table}, complete=True)
        found = Found(
            path=f"{LOST}/fragments/{name}",
            key=f"fragment:{name}",
            kind=FileKind.FILE,
            size=size,
            status=Status.DELETED,
            missing=((0, size),),
            confidence=0.1,
            reasons=("a pointer block that no file has: a part of a deleted file, nobody knows of which",),
            evidence=("pointer block",),
        )
        self._add(found, Pieced(disk, self._geometry, self._generation.space))

    def _add_empty(self, address: int, node: Node) -> None:
        descriptor = node.descriptor
        found = Found(
            path=f"{LOST}/deleted/{address:08x}",
            key=f"{address:x}.{descriptor.generation:x}",
            kind=FileKind.FILE,
            size=0,
            status=Status.DELETED,
            modified=descriptor.modified,
            mode=descriptor.mode & 0o7777,
            uid=descriptor.uid,
            gid=descriptor.gid,
            confidence=0.0,
            reasons=("its size and its block list were cleared when it was deleted",),
            evidence=("file descriptor",),
        )
        if descriptor.length:
            found = replace(found, size=descriptor.length, missing=((0, descriptor.length),))
        self._add(found, Missing(found.size, "its block list was cleared when it was deleted"))

    def _add(self, found: Found, content: Content) -> None:
        self.files.setdefault(found.key, (found, content))
