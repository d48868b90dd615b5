"""A damaged volume, put together again from what is left of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from triune.disks.content import Content, Run
from triune.disks.content import read as read_content
from triune.disks.vmfs.address import ROOT, Kind
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.descriptor import Descriptor, FileType, Layout
from triune.disks.vmfs.volume import Missing
from triune.domain.errors import Conflict, NotFound, TriuneError
from triune.domain.rescue import FileKind, Found, Status
from triune.services.rescue.deleted import Deleted
from triune.services.rescue.generations import Generation, Node, parsed
from triune.services.rescue.ranges import Claims, Ranges
from triune.services.rescue.rebuild_bitmaps import Bitmaps, file_blocks
from triune.services.rescue.rebuild_checks import Counting, Doubts, Tally, Verdict, judge, places
from triune.services.rescue.rebuild_guesses import Guesses
from triune.services.rescue.rebuild_maps import Maps, maps_of
from triune.services.rescue.rebuild_names import READ, Names
from triune.services.rescue.rebuild_zones import zones

_KINDS = {
    FileType.FOLDER: FileKind.FOLDER,
    FileType.FILE: FileKind.FILE,
    FileType.LINK: FileKind.LINK,
    FileType.SYSTEM: FileKind.SYSTEM,
    FileType.RDM: FileKind.RDM,
}
_MOST_TARGET = 4096
_MOST_SYSTEM = 1 << 21  # blocks
_LIKELY, _DOUBTED = 0.9, 0.5
_INNER = "it may lie in a file of another volume, such as a guest's disk"


@dataclass(slots=True)
class _Examined:
    """A file with its content and what was counted of it."""

    descriptor: Descriptor
    content: Content
    tally: Tally


class Doubted:
    """A content of which holes can't be believed: they are missing. Bytes that are there are given as they are."""

    def __init__(self, content: Content, missing: Sequence[tuple[int, int]], why: str) -> None:
        self._content, self._missing, self._why = content, Ranges(missing), why

    @property
    def size(self) -> int:
        """In bytes."""
        return self._content.size

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """Where the bytes [start, end) are."""
        for run in self._content.runs(start, end):
            if run.missing or run.source is not None:
                yield run
                continue
            offset = run.offset
            for begin, length in self._missing.within(run.offset, run.length):
                if begin > offset:
                    yield Run(offset, begin - offset)
                yield Run(begin, length, why=self._why)
                offset = begin + length
            if offset < run.offset + run.length:
                yield Run(offset, run.offset + run.length - offset)


class RebuiltVolume:
    """A `Volume` (services.rescue.volume) by what a scan found of it."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.maps: Maps = maps_of(generation)
        self.geometry = self.maps.geometry
        self.names = Names(generation, self.maps)
        self._guesses = Guesses(generation, self.maps, self.names)
        self._bitmaps = Bitmaps(generation, self.geometry)
        self._counting = Counting(self.maps, self._system_blocks(), self._bitmaps)
        self._claims = self._claimed()
        self._doubts = self._doubted()
        self._found: dict[str, Found] | None = None
        self._deleted: Deleted | None = None
        self._everything: dict[str, Found] = {}

    @property
    def label(self) -> str:
        """Its name, where the superblock survives."""
        known = self.generation.superblock
        return known.label if known is not None else ""

    @property
    def uuid(self) -> str:
        """Of the file system, where the superblock survives."""
        known = self.generation.superblock
        return known.uuid if known is not None else ""

    @property
    def version(self) -> str:
        """ "VMFS5", "VMFS6", …"""
        return self.geometry.version

    def damages(self) -> Sequence[str]:
        """What is wrong with the volume."""
        said = []
        if self.generation.former:
            said.append("another file system was made over it")
        elif self.generation.inner:
            said.append(_INNER)
        elif self.generation.superblock is None:
            said.append("its superblock is lost")
        said.extend(self._absent())
        said.extend(self.maps.damages)
        if ROOT not in self.generation.nodes:
            said.append("the file descriptor of its root is lost")
        elif ROOT not in self.names.whole:
            said.append("its root directory is damaged")
        lost = sum(1 for address in self.names.found if address not in self.generation.nodes)
        if lost:
            said.append(f"the file descriptors of {lost} files that have a name are lost")
        return said

    def _absent(self) -> Iterator[str]:
        """What is not among the sources: whole extents, or the end of one."""
        extents = self.generation.extents
        there, wanted = len(extents), max(extent.devices for extent in extents)
        if there < wanted:
            verb = "is" if there == 1 else "are"
            yield f"{there} of its {wanted} extents {verb} among the sources: name the others too"
        for segment in (segment for extent in extents for segment in extent.segments):
            short = segment.at + segment.length - segment.source.size
            if short > 0:
                yield f"{segment.source.name} ends {short} bytes before the volume does"

    def walk(self, *, deleted: bool = False, system: bool = False) -> Iterator[Found]:
        """Everything found, folders before what is in them, in order of paths; deleted files and the volume's own ones
        when asked."""
        for found in (self._with_deleted() if deleted else self._all()).values():
            if (deleted or found.status != Status.DELETED) and (system or found.kind != FileKind.SYSTEM):
                yield found

    def find(self, path: str) -> Found:
        """One file by its path. Raises NotFound("no_such_file") with the nearest names as hint."""
        wanted = "/".join(part for part in path.split("/") if part)
        found = self._all().get(wanted) or self._with_deleted().get(wanted)
        if found is None and not wanted:
            return Found(path="", key=f"{ROOT:x}.0", kind=FileKind.FOLDER, size=0, status=Status.RECOVERED)
        if found is None:
            near = get_close_matches(wanted, list(self._all()), 3)
            hint = f"Near it: {', '.join(near)}." if near else "List the volume with `triune rescue ls -R`."
            raise NotFound("no_such_file", f"there is no {path} on the volume", hint=hint)
        return found

    def open(self, found: Found) -> Content:
        """A file's content. Raises Conflict for a folder."""
        if found.kind == FileKind.FOLDER:
            raise Conflict("is_a_folder", f"{found.path} is a folder", hint="Name a file in it.")
        if self._deleted is not None and found.key in self._deleted.files:
            return self._deleted.files[found.key][1]
        address, _, _ = found.key.partition(".")
        node = self.generation.nodes.get(int(address, 16))
        loaded = self.load(node) if node is not None else None
        if loaded is None:
            return Missing(found.size, "its file descriptor is lost")
        if loaded.type == FileType.RDM:
            return Missing(loaded.length, "it is a pointer to a raw device")
        content = FileContent(loaded, self.maps.resources)
        if found.missing:
            return Doubted(content, found.missing, "; ".join(found.reasons) or "nothing vouches for it")
        return content

    def close(self) -> None:
        """Close the sources."""
        self.generation.space.close()

    def load(self, node: Node) -> Descriptor | None:
        """An FD with all its bytes, as it is on the volume now."""
        return parsed(self.generation.read(node.place, self.geometry.descriptor_size), self.geometry)

    def _all(self) -> dict[str, Found]:
        if self._found is None:
            found = list(self._files())
            found.extend(self._nameless_folders(found))
            self._found = {one.path: one for one in _unique(sorted(found, key=lambda one: one.path.split("/")))}
        return self._found

    def _with_deleted(self) -> dict[str, Found]:
        """All that was found, and the deleted files, which take longer to find."""
        if self._deleted is None:
            claimed = self._claims.joined()
            self._deleted = Deleted(self.generation, self.maps, self.names, claimed)
            found = [*self._all().values(), *(one for one, _ in self._deleted.files.values())]
            found.extend(self._nameless_folders(found))
            self._everything = {one.path: one for one in _unique(sorted(found, key=lambda one: one.path.split("/")))}
        return self._everything

    def _files(self) -> Iterator[Found]:
        for address, node in self.generation.nodes.items():
            descriptor = node.descriptor
            if address == ROOT:
                continue
            if descriptor.links == 0 or (node.used is False and address not in self.names.found):
                continue
            yield self._described(address, node)
        for address, name in self.names.found.items():
            if address in self.generation.nodes or name.type == FileType.SYSTEM:
                continue
            path = self.names.path(address)
            if path is None and self._is_lost(address):
                path, _ = self._guesses.path(address, None)
            if path is not None:
                yield self._without_descriptor(address, path)

    def _is_lost(self, address: int) -> bool:
        """Whether an FD that is not there was in use: the bitmap says so, or is lost as well."""
        header = self.generation.clusters.get("fdc", {}).get(address >> 6 & 0xFFFF)
        return not self.generation.former and (header is None or header.has(address >> 22 & 0x3FF))

    def _without_descriptor(self, address: int, path: str) -> Found:
        name = self.names.found[address]
        kind = _KINDS.get(FileType(name.type), FileKind.FILE)
        folder = kind == FileKind.FOLDER
        return Found(
            path=path,
            key=f"{address:x}.{name.generation:x}",
            kind=kind,
            size=0,
            status=Status.RECOVERED if folder else Status.PARTIAL,
            confidence=_LIKELY if folder else 0.0,
            reasons=("its file descriptor is lost",),
            evidence=(name.evidence,),
        )

    def _described(self, address: int, node: Node) -> Found:
        descriptor = node.descriptor
        path, evidence, named = self._path(address, node)
        found = Found(
            path=path,
            key=f"{address:x}.{descriptor.generation:x}",
            kind=FileKind.FOLDER if descriptor.folder else _KINDS[descriptor.type],
            size=descriptor.length,
            status=Status.INTACT if named and self._healthy(address) else Status.RECOVERED,
            modified=descriptor.modified,
            mode=descriptor.mode & 0o7777,
            uid=descriptor.uid,
            gid=descriptor.gid,
            evidence=("file descriptor", *evidence),
        )
        loaded = self.load(node)
        if loaded is None:
            return replace(found, status=Status.PARTIAL, confidence=0.0, reasons=("its file descriptor is lost",))
        if found.kind == FileKind.FOLDER:
            own = descriptor.type == FileType.SYSTEM
            return replace(found, kind=FileKind.SYSTEM) if own else self._folder(found, address)
        if found.kind == FileKind.RDM:
            return replace(found, target=loaded.rdm(self.geometry))
        return self._judged(found, loaded)

    def _folder(self, found: Found, address: int) -> Found:
        if address in self.names.whole:
            return found
        why = tuple(self.names.damaged.get(address, ("its listing is damaged",))[:3])
        return replace(found, status=Status.RECOVERED, confidence=_DOUBTED, reasons=why)

    def _judged(self, found: Found, loaded: Descriptor) -> Found:
        content = FileContent(loaded, self.maps.resources)
        tally = self._counting.tally(loaded)
        try:
            verdict = judge(loaded, content, tally, self._doubts, self.maps)
        except TriuneError as error:
            verdict = Verdict([(0, loaded.length)], {error.message: None})
        if found.kind == FileKind.LINK and not verdict.missing:
            target = read_content(content, 0, _MOST_TARGET)
            return replace(found, target=target.decode("utf-8", "backslashreplace"))
        evidence = found.evidence
        if loaded.layout not in (Layout.RESIDENT, Layout.NONE) and tally.blocks == loaded.blocks:
            evidence = (*evidence, f"{tally.blocks} blocks counted")
        former = self.generation.former
        if not verdict.missing:
            return replace(
                found,
                evidence=evidence,
                status=Status.DELETED if former else found.status,
                confidence=_LIKELY if former else found.confidence,
                reasons=("another file system was made over it",) if former else (),
            )
        missing = Ranges(verdict.missing).fewest()
        known = 1 - sum(length for _, length in missing) / max(1, loaded.length)
        return replace(
            found,
            status=Status.DELETED if former else Status.PARTIAL,
            missing=missing,
            confidence=round(max(0.0, known), 3),
            reasons=tuple(list(verdict.reasons)[:8]),
            evidence=evidence,
        )

    def _healthy(self, address: int) -> bool:
        """Whether all that was used to reach a file is the volume's own."""
        if self.generation.superblock is None or self.generation.former or self.maps.damages:
            return False
        for _ in range(128):
            name = self.names.found.get(address)
            if name is None or name.evidence != READ:
                return False
            address = name.parent
            if address == ROOT:
                return ROOT in self.generation.nodes
        return False

    def _path(self, address: int, node: Node) -> tuple[str, tuple[str, ...], bool]:
        """(path, evidence, whether it is the volume's own name)."""
        path = self.names.path(address)
        if path is not None:
            return path, (self.names.found[address].evidence,), True
        path, evidence = self._guesses.path(address, node)
        return path, evidence, False

    def _nameless_folders(self, found: list[Found]) -> Iterator[Found]:
        """Folders on the way to what was found."""
        known = {one.path for one in found}
        for one in found:
            parts = one.path.split("/")[:-1]
            for count in range(1, len(parts) + 1):
                path = "/".join(parts[:count])
                if path not in known:
                    known.add(path)
                    yield Found(
                        path=path,
                        key=f"folder:{path}",
                        kind=FileKind.FOLDER,
                        size=0,
                        status=Status.RECOVERED,
                        reasons=("made for what was found",),
                    )

    def _claimed(self) -> Claims:
        """What files claim of the volume."""
        claims = Claims()
        for node in self.generation.nodes.values():
            descriptor = node.descriptor
            if descriptor.type == FileType.SYSTEM or not descriptor.blocks or descriptor.layout == Layout.RESIDENT:
                continue
            loaded = self.load(node)
            if loaded is not None and not self._claim(claims, FileContent(loaded, self.maps.resources)):
                break
        return claims

    def _promised(self) -> Claims:
        """What files have of the volume and never wrote: they read as zeros there, and others have no part in it."""
        claims = Claims()
        for node in self.generation.nodes.values():
            loaded = self.load(node) if node.descriptor.zeroed_blocks else None
            for place, length in self._counting.tally(loaded).promised if loaded is not None else ():
                if not claims.add(place, length):
                    return claims
        return claims

    def _claim(self, claims: Claims, content: Content) -> bool:
        for run in content.runs():
            for place, length in places(self.generation.space, run) if run.source is not None else ():
                if not claims.add(place, length):
                    return False
        return True

    def _doubted(self) -> Doubts:
        promised = self._promised()
        kinds = [
            (self._claims.shared(promised), "its blocks are claimed a second time"),
            (zones(self.generation, self.maps, self._broken_folders()), "it lies where the volume was hit"),
            (self._unreadable(), "the medium can't be read there"),
            (self._surrounded(), "one of the volume's own files is assumed to be all around it"),
        ]
        if self.generation.former:
            kinds.append((Ranges([(0, self.generation.space.size)]), "another file system was made over it"))
        if self.generation.inner:
            kinds.append((Ranges([(0, self.generation.space.size)]), _INNER))
        if self._claims.full or promised.full:
            kinds.append((Ranges([(0, self.generation.space.size)]), "there are too many blocks to compare them all"))
        return Doubts(tuple(kinds), Ranges(self.maps.assumed))

    def _surrounded(self) -> Ranges:
        """Single blocks of files where a resource file is assumed, between blocks that are in use and nobody's."""
        assumed = Ranges(self.maps.assumed)
        if not assumed:
            return assumed
        size, claimed = self.geometry.file_block, self._claims.joined()

        def nobodys(place: int) -> bool:
            return self._bitmaps.uses(place // size) and not any(claimed.within(place, size))

        found = []
        for offset, length in assumed:
            for place, part in claimed.within(offset + size, length - 2 * size):
                if place % size == 0 and part == size and nobodys(place - size) and nobodys(place + size):
                    found.append((place, part))
        return Ranges(found)

    def _broken_folders(self) -> list[int]:
        whole = self.names.whole
        return [each for each, node in self.generation.nodes.items() if node.descriptor.folder and each not in whole]

    def _unreadable(self) -> Ranges:
        ranges: list[tuple[int, int]] = []
        for extent in self.generation.extents:
            source = self.generation.session.sources[extent.source]
            for at, length in self.generation.session.unreadable(extent.source):
                ranges.extend(places(self.generation.space, Run(0, length, source, at)))
        return Ranges(ranges)

    def _system_blocks(self) -> set[int]:
        """The numbers of the file blocks that hold the volume's own files."""
        import numpy as np

        found: set[int] = set()
        for node in self.generation.nodes.values():
            if node.descriptor.type != FileType.SYSTEM or node.descriptor.layout != Layout.BLOCKS:
                continue
            loaded = self.load(node)
            if loaded is not None:
                values = np.array(loaded.addresses(self.geometry), np.uint64)
                found.update(file_blocks(values, self.geometry).tolist())
        assumed = Ranges(self.maps.assumed)
        for kind, file in self.maps.files.items():
            if kind == Kind.DESCRIPTOR:
                continue
            for run in file.content.runs():
                for place, length in places(self.generation.space, run) if run.source is not None else ():
                    first, last = place // self.geometry.file_block, (place + length - 1) // self.geometry.file_block
                    if len(found) + last - first < _MOST_SYSTEM:
                        found.update(range(first, last + 1))
        size = self.geometry.file_block
        return {number for number in found if next(assumed.within(number * size, size), None) is None}


def _unique(found: list[Found]) -> Iterator[Found]:
    """Of two files with one path, the second is told apart by its key."""
    seen: set[str] = set()
    for one in found:
        path = one.path if one.path not in seen else f"{one.path} [{one.key}]"
        seen.add(path)
        yield replace(one, path=path)
