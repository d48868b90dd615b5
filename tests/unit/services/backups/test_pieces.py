"""Which pieces of a disk a backup reads: what changed since the one before, and nothing else."""

from __future__ import annotations

from pathlib import Path

from triune.engines.archiving import Part, PartKind
from triune.host.staging.pieces import PIECE
from triune.services.backups.create import piece_times
from triune.services.backups.manifest import StoredPart

SIZE = 10 * PIECE + 5
OLD = 10**15


def part(changed: tuple[tuple[int, int], ...] | None) -> Part:
    base = None if changed is None else "aaaa"
    return Part(kind=PartKind.DISK, name="disk0", path=Path("/x"), size=SIZE, base=base, changed=changed)


def earlier(size: int = SIZE) -> StoredPart:
    return StoredPart(kind=PartKind.DISK, name="disk0", size=size, times={0: OLD, 4: OLD})


def allocated(*_: object) -> list[tuple[int, int]]:
    return [(0, 10), (3 * PIECE - 1, 2), (10 * PIECE, 5)]


def test_the_first_backup_has_what_is_allocated() -> None:
    found = piece_times(part(None), None, ranges=allocated)
    assert sorted(found) == [0, 2, 3, 10]
    assert len(set(found.values())) == 1


def test_unchanged_pieces_keep_their_time() -> None:
    found = piece_times(part(((PIECE, 1), (4 * PIECE, PIECE))), earlier(), ranges=allocated)
    assert sorted(found) == [0, 1, 4]
    assert found[0] == OLD
    assert found[1] == found[4] > OLD


def test_nothing_changed() -> None:
    assert piece_times(part(()), earlier(), ranges=allocated) == earlier().times


def test_without_a_base_all_is_read_again() -> None:
    assert sorted(piece_times(part(None), earlier(), ranges=allocated)) == [0, 2, 3, 10]


def test_a_disk_that_grew_is_read_again() -> None:
    assert sorted(piece_times(part(()), earlier(5 * PIECE), ranges=allocated)) == [0, 2, 3, 10]


def test_time_goes_on_even_where_the_clock_was_set_back() -> None:
    future = StoredPart(kind=PartKind.DISK, name="disk0", size=SIZE, times={0: 2**62})
    assert piece_times(part(((0, 1),)), future, ranges=allocated)[0] > 2**62
