"""From disks to healthy volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from triune.disks.partitions import read_partitions
from triune.disks.source import Source, Window
from triune.disks.vmfs import assembly, lvm, superblock
from triune.disks.vmfs.geometry import SUPERBLOCK
from triune.disks.vmfs.space import Space
from triune.disks.vmfs.volume import VmfsVolume
from triune.domain.errors import NotFound, TriuneError

# Where ESXi puts a datastore's partition; looked at where a disk has lost its table.
USUAL_STARTS = (63 * 512, 128 * 512, 2048 * 512)


def open_volumes(sources: Sequence[Source]) -> list[VmfsVolume]:
    """The healthy volumes on all sources together; extents are joined whatever the order, and copies left out.

    The volumes use the sources, and closing a volume closes those it uses. Raises NotFound("no_volume") where there is
    none, or what is wrong with the only one there is.
    """
    members: list[assembly.Member] = []
    spaces: list[tuple[Space, list[str]]] = []
    problems: list[TriuneError] = []
    for place in (place for source in sources for place in _places(source)):
        try:
            members += assembly.members(place)
        except TriuneError as error:
            if _is_marked(place, SUPERBLOCK, superblock.MAGICS):
                spaces.append((Space.plain(place), []))
            elif _is_marked(place, lvm.HEADER, (lvm.MAGIC,)):
                problems.append(error)
    spaces += [(joined.space(), joined.damages) for joined in assembly.logical_volumes(members)]
    volumes = []
    for space, damages in spaces:
        try:
            volumes.append(VmfsVolume(space, damages=damages))
        except TriuneError as error:
            problems.append(error)
    if not volumes:
        raise problems[0] if problems else _nothing(sources)
    for problem in problems:
        volumes[0].warn(f"another volume beside this one can't be opened: {problem.message}")
    return volumes


def _places(source: Source) -> Iterator[Source]:
    """Where on a source a volume or an extent may begin: its start, and its partitions."""
    if _has_mark(source):
        yield source
    table = read_partitions(source)
    parts = table.partitions if table is not None else ()
    for part in parts:
        window = Window(source, part.start, part.size, f"{source.name}, partition {part.number}")
        if _has_mark(window):
            yield window
    if not parts:
        for start in USUAL_STARTS:
            window = Window(source, start, source.size - start)
            if _has_mark(window):
                yield window
                return


def _has_mark(place: Source) -> bool:
    return _is_marked(place, lvm.HEADER, (lvm.MAGIC,)) or _is_marked(place, SUPERBLOCK, superblock.MAGICS)


def _is_marked(place: Source, offset: int, marks: Sequence[int] | dict[int, bool]) -> bool:
    try:
        return int.from_bytes(place.read(offset, 4), "little") in marks
    except TriuneError:
        return False


def _nothing(sources: Sequence[Source]) -> TriuneError:
    names = ", ".join(source.name for source in sources)
    return NotFound("no_volume", f"there is no healthy VMFS volume on {names}", hint="Scan it: a scan looks all over.")
