"""A healthy VMFS volume. What is damaged on it is told and left out; putting it together again is not done here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches

from triune.disks.content import Content, Run
from triune.disks.content import read as read_content
from triune.disks.source import Unreadable
from triune.disks.vmfs import address as addresses
from triune.disks.vmfs import descriptor as descriptors
from triune.disks.vmfs import resource, superblock
from triune.disks.vmfs.address import Kind
from triune.disks.vmfs.allocation import Allocation
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.claims import Claims
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.descriptor import Descriptor, FileType
from triune.disks.vmfs.directory import Entry, Listing
from triune.disks.vmfs.geometry import MOST_BYTES, SUPERBLOCK, Geometry
from triune.disks.vmfs.resolver import ResourceFile, Resources, read
from triune.disks.vmfs.space import Space
from triune.domain.errors import Conflict, NotFound, TriuneError
from triune.domain.rescue import FileKind, Found, Status

_MOST_DEPTH = 512
_MOST_TARGET = 4096
_MOST_DAMAGES = 200
_MOST_RANGES = 10_000
_PAGE = 1 << 16
_MOST_PAGES = 256
_OLD_SUB_BLOCKS = 16
_MOST_REASONS = 8
_MOST_BLOCKS = 1 << 16  # that a walk looks at in pointer blocks: some tenths of a second
# Each file's own map may need those before it, and no other: none can point to itself.
_FILES = (
    (Kind.POINTER_BLOCK2, addresses.POINTER_BLOCKS2, ".pb2.sf"),
    (Kind.POINTER_BLOCK, addresses.POINTER_BLOCKS, ".pbc.sf"),
    (Kind.SUB_BLOCK, addresses.SUB_BLOCKS, ".sbc.sf"),
    (Kind.DESCRIPTOR, addresses.DESCRIPTORS, ".fdc.sf"),
    (Kind.JOURNAL_BLOCK, addresses.JOURNAL, ".jbc.sf"),
)
_IN_MAPS = frozenset({Kind.POINTER_BLOCK2, Kind.POINTER_BLOCK, Kind.SUB_BLOCK})
_KINDS = {
    FileType.FOLDER: FileKind.FOLDER,
    FileType.FILE: FileKind.FILE,
    FileType.LINK: FileKind.LINK,
    FileType.SYSTEM: FileKind.SYSTEM,
    FileType.RDM: FileKind.RDM,
}


class Missing:
    """The content of a file of which nothing is known but its size."""

    def __init__(self, size: int, why: str) -> None:
        self._size, self._why = size, why

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """One run that says why."""
        end = self._size if end is None else min(end, self._size)
        if start < end:
            yield Run(start, end - start, why=self._why)


class VmfsVolume:
    """A `Volume` (services.rescue.volume) read by its own structures alone."""

    def __init__(self, space: Space, *, damages: Sequence[str] = ()) -> None:
        """`damages` are those known already. Raises Damaged where the superblock or the root directory's FD is none."""
        self.space = space
        self.superblock = superblock.parse(_bytes(space, SUPERBLOCK, superblock.SIZE))
        self.geometry: Geometry = self.superblock.geometry
        self._damages = list(damages)
        self._blocks_left = _MOST_BLOCKS
        self._claims = Claims()
        self._pages: dict[int, bytes] = {}
        self.allocations: dict[Kind, Allocation] = {}
        self.space = self._whole(space)
        self.resources = Resources(self.geometry, self.space, self._files())
        self.root = self.descriptor(addresses.ROOT)
        if not self.root.folder:
            raise Damaged("the root directory is no folder")

    @property
    def label(self) -> str:
        """Its name, as the superblock has it."""
        return self.superblock.label

    @property
    def uuid(self) -> str:
        """Of the file system."""
        return self.superblock.uuid

    @property
    def version(self) -> str:
        """ "VMFS3", "VMFS5", "VMFS6", "VMFS-L 5", "VMFS-L 6"."""
        return self.geometry.version

    def damages(self) -> Sequence[str]:
        """What was found wrong so far, a sentence each; a walk finds more."""
        return tuple(self._damages)

    def warn(self, why: str) -> None:
        """Add a sentence to the damages, once."""
        if len(self._damages) < _MOST_DAMAGES and why not in self._damages:
            self._damages.append(why)

    def walk(self, *, deleted: bool = False, system: bool = False) -> Iterator[Found]:
        """Everything below the root, folders before what is in them, in order of paths.

        A healthy volume knows of no `deleted` files. With `system`, the volume's own files too.
        """
        seen = {addresses.ROOT}
        self._blocks_left = _MOST_BLOCKS
        self._claims = Claims()
        self._claims.add("", "", self._content(self.root).census)
        stack: list[Iterator[tuple[Found, Descriptor | None]]] = [self._children("", self.root)]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                continue
            found, inside = following
            if not system and self._own(found, inside):
                continue
            yield found
            if inside is None or not inside.folder:
                continue
            if inside.address in seen:
                self.warn(f"the folder {found.path} stands in another place too")
            elif len(stack) >= _MOST_DEPTH:
                self.warn(f"the folder {found.path} is too deep")
            else:
                seen.add(inside.address)
                stack.append(self._children(found.path + "/", inside))
        for one, other in self._claims.shared():
            self.warn(f"/{one} and /{other} lead to the same blocks")

    def find(self, path: str) -> Found:
        """One file by its path. Raises NotFound("no_such_file") with the nearest names as hint."""
        folder: Descriptor | None = self.root
        found = self._found("", Entry(FileType.FOLDER, addresses.ROOT, self.root.generation, "", 0))[0]
        for name in (name for name in path.split("/") if name):
            prefix = f"{found.path}/" if found.path else ""
            around = dict(self._named(prefix, folder)) if folder is not None and folder.folder else {}
            if name not in around:
                users = sorted(each for each, entry in around.items() if entry.type != FileType.SYSTEM)
                near = get_close_matches(name, around, 3) or users[:3]
                hint = f"Near it: {', '.join(near)}." if near else "Nothing is there."
                raise NotFound("no_such_file", f"there is no {path} on the volume", hint=hint)
            found, folder = self._found(prefix + name, around[name])
        return found

    def open(self, found: Found) -> Content:
        """A file's content. Raises Conflict for a folder."""
        if found.kind == FileKind.FOLDER:
            raise Conflict("is_a_folder", f"{found.path} is a folder", hint="Name a file in it.")
        try:
            inside = self._by_key(found.key)
        except Damaged as damaged:
            return Missing(found.size, damaged.why)
        if inside.folder:
            raise Conflict("is_a_folder", f"{found.path} is a folder", hint="Name a file in it.")
        if inside.type == FileType.RDM:
            return Missing(inside.length, "it is a pointer to a raw device")
        return self._content(inside)

    def close(self) -> None:
        """Close the sources."""
        self.space.close()

    def descriptor(self, value: int) -> Descriptor:
        """The FD at an address. Raises Damaged."""
        where = addresses.decode(value, self.geometry)
        if where.kind != Kind.DESCRIPTOR:
            raise Damaged(f"a {where} is where a file descriptor should be")
        if Kind.DESCRIPTOR not in self.resources.files and where.cluster == 0:
            found = self._own_descriptor(value)
        else:
            found = descriptors.parse(self._held(where), self.geometry)
        if found.address != value:
            raise Damaged(f"the {where} calls itself {found.address:#x}")
        return found

    def _held(self, where: addresses.Address) -> bytes:
        """The bytes of an FD: most are asked for with their neighbours, so they are read together."""
        size = self.geometry.descriptor_size
        file = self.resources.files.get(Kind.DESCRIPTOR)
        if file is None:
            return read(self.resources, where, 0, size)
        place = file.header.offset(where.cluster, where.item)
        page = self._pages.get(place // _PAGE)
        if page is None:
            try:
                page = read_content(file.content, place // _PAGE * _PAGE, _PAGE)
            except TriuneError:
                return read(self.resources, where, 0, size)
            if len(self._pages) >= _MOST_PAGES:
                self._pages.clear()
            self._pages[place // _PAGE] = page
        found = page[place % _PAGE : place % _PAGE + size]
        return found if len(found) == size else read(self.resources, where, 0, size)

    def _whole(self, space: Space) -> Space:
        """With the size that the volume's own count of blocks gives: without LVM, nothing else tells it."""
        for segment in space.segments:
            short = segment.at + segment.length - segment.source.size
            if short > 0:
                self.warn(f"{segment.source.name} ends {short} bytes before the volume does")
        try:
            content = FileContent(self._own_descriptor(addresses.FILE_BLOCKS), Resources(self.geometry, space))
            head = resource.parse(read_content(content, 0, resource.HEADER_SIZE), self.geometry)
            if head.child:
                head = resource.parse(read_content(content, head.child, resource.HEADER_SIZE), self.geometry)
        except TriuneError as error:
            self.warn(f".fbb.sf can't be read: {getattr(error, 'why', '') or error.message}")
            return space
        self.allocations[Kind.FILE_BLOCK] = Allocation(Kind.FILE_BLOCK, head, content, self.geometry)
        size = head.count * self.geometry.file_block
        if space.size < size <= MOST_BYTES:
            if not self.superblock.lvm_uuid:
                self.warn(f"{space.name} ends {size - space.size} bytes before the volume does")
            return Space(space.name, space.segments, size)
        return space

    def _files(self) -> dict[Kind, ResourceFile]:
        """The volume's resource files, as far as they can be read."""
        files: dict[Kind, ResourceFile] = {}
        for kind, value, name in _FILES:
            if kind == Kind.JOURNAL_BLOCK and not self.geometry.wide:
                continue
            if kind == Kind.POINTER_BLOCK2 and self.superblock.pb2[0] == 0:
                continue
            try:
                inside = self._own_descriptor(value)
                if inside.address != value or inside.type != FileType.SYSTEM:
                    raise Damaged(f"another file's descriptor is where that of {name} should be")
                content = FileContent(inside, Resources(self.geometry, self.space, dict(files)), counted=True)
                head = resource.parse(read_content(content, 0, resource.HEADER_SIZE), self.geometry)
                files[kind] = ResourceFile(head, content)
                if kind in _IN_MAPS:
                    self.allocations[kind] = Allocation(kind, head, content, self.geometry)
                if kind == Kind.SUB_BLOCK and not self.geometry.wide:
                    self._compare_density(head.per_cluster)
            except TriuneError as error:
                self.warn(f"{name} can't be read: {getattr(error, 'why', '') or error.message}")
        return files

    def _compare_density(self, per_cluster: int) -> None:
        """More sub-blocks in a cluster than an old address can name need the dense kind, and only they have it."""
        if (per_cluster > _OLD_SUB_BLOCKS) != self.geometry.dense:
            self.warn("the superblock and .sbc.sf tell of different addresses of sub-blocks")

    def _content(self, inside: Descriptor) -> FileContent:
        return FileContent(inside, self.resources, counted=True, allocations=self.allocations)

    def _own_descriptor(self, value: int) -> Descriptor:
        """One of the first FDs, at their fixed place."""
        place = self.geometry.first_descriptor + (value >> 22) * self.geometry.descriptor_size
        if not self.geometry.dense and value == self.superblock.pb2[1]:
            place = self.superblock.pb2[0]
        return descriptors.parse(_bytes(self.space, place, self.geometry.descriptor_size), self.geometry)

    def _by_key(self, key: str) -> Descriptor:
        value, _, generation = key.partition(".")
        inside = self.descriptor(int(value, 16))
        if inside.generation != int(generation, 16):
            raise Damaged("the file descriptor belongs to another file")
        return inside

    def _children(self, prefix: str, folder: Descriptor) -> Iterator[tuple[Found, Descriptor | None]]:
        """What a folder holds, by name."""
        for name, entry in self._named(prefix, folder):
            yield self._found(prefix + name, entry)

    def _named(self, prefix: str, folder: Descriptor) -> Iterator[tuple[str, Entry]]:
        """A folder's entries by name; of two files with one name, the second is told apart by its FD."""
        content = self._content(folder)
        listing = Listing(lambda offset, length: read_content(content, offset, length), content.size, self.geometry)
        entries = sorted(listing.entries(), key=lambda entry: (entry.name, entry.at))
        for why in listing.damages:
            self.warn(f"the folder /{prefix.rstrip('/')}: {why}")
        names: set[str] = set()
        for entry in entries:
            name = entry.name
            if name in names:
                name = f"{name} [{entry.address:x}.{entry.generation:x}]"
                self.warn(f"/{prefix}{entry.name} stands in its folder twice")
            names.add(name)
            yield name, entry

    def _found(self, path: str, entry: Entry) -> tuple[Found, Descriptor | None]:
        key = f"{entry.address:x}.{entry.generation:x}"
        try:
            inside = self._by_key(key)
            if inside.links == 0:
                raise Damaged("its file descriptor is that of a deleted file")
            if inside.type != entry.type:
                raise Damaged("its file descriptor is of another type")
        except TriuneError as error:
            why = f"its file descriptor can't be used: {getattr(error, 'why', '') or error.message}"
            self.warn(f"/{path}: {why}")
            kind = _KINDS.get(FileType(entry.type), FileKind.FILE)
            lost = Found(path=path, key=key, kind=kind, size=0, status=Status.PARTIAL, confidence=0.0, reasons=(why,))
            return lost, None
        return self._described(path, key, inside), inside

    def _described(self, path: str, key: str, inside: Descriptor) -> Found:
        found = Found(
            path=path,
            key=key,
            kind=FileKind.FOLDER if inside.folder else _KINDS[inside.type],
            size=inside.length,
            status=Status.INTACT,
            modified=inside.modified,
            mode=inside.mode & 0o7777,
            uid=inside.uid,
            gid=inside.gid,
            evidence=("directory entry", "file descriptor"),
        )
        if inside.folder:
            self._claims.add(key, path, self._content(inside).census)
            return found
        if inside.type == FileType.RDM:
            return replace(found, target=self._device(inside))
        content = self._content(inside)
        found = self._examined(found, content)
        if inside.type != FileType.LINK or found.missing:
            return found
        try:
            target = read_content(content, 0, _MOST_TARGET)
        except TriuneError as error:
            return replace(found, status=Status.PARTIAL, confidence=0.0, reasons=(error.message,))
        return replace(found, target=target.decode("utf-8", "backslashreplace"))

    def _device(self, inside: Descriptor) -> str:
        try:
            return inside.rdm(self.geometry)
        except Damaged:
            return ""

    def _examined(self, found: Found, content: FileContent) -> Found:
        """With what is missing of it; of large files only as long as a walk may take."""
        inside = content.descriptor
        if inside.levels:
            if inside.blocks > self._blocks_left:
                return replace(found, reasons=("its pointer blocks are not looked at before it is read",))
            self._blocks_left -= inside.blocks
        self._claims.add(found.key, found.path, content.census)
        missing: list[tuple[int, int]] = []
        reasons: dict[str, None] = {}
        for run in content.runs():
            if not run.missing:
                continue
            reasons[run.why] = None
            if missing and (missing[-1][0] + missing[-1][1] == run.offset or len(missing) >= _MOST_RANGES):
                missing[-1] = (missing[-1][0], run.offset + run.length - missing[-1][0])
            else:
                missing.append((run.offset, run.length))
        if not inside.length and content.beyond:
            return replace(found, status=Status.PARTIAL, confidence=0.0, reasons=(content.beyond,))
        if not missing:
            return replace(found, evidence=(*found.evidence, "block count")) if inside.blocks else found
        lost = sum(length for _, length in missing)
        return replace(
            found,
            status=Status.PARTIAL,
            missing=tuple(missing),
            confidence=round(1 - lost / inside.length, 3),
            reasons=tuple(reasons)[:_MOST_REASONS],
        )

    @staticmethod
    def _own(found: Found, inside: Descriptor | None) -> bool:
        """Whether it is one of the volume's own files."""
        return found.kind == FileKind.SYSTEM or (
            inside is not None and (inside.type == FileType.SYSTEM or inside.address == addresses.DESCRIPTORS_DIR)
        )


def _bytes(space: Space, offset: int, length: int) -> bytes:
    """What is there. Raises Damaged where it can't be read."""
    try:
        return space.read(offset, length)
    except Unreadable as error:
        raise Damaged(error.message) from None
