"""Which file leads to which blocks: one that two files lead to belongs to one of them at most.

A single wrong bit in a block map leads to a block that is in use, and neither counts nor bitmaps tell. The other
file's map does.
"""

from __future__ import annotations

from triune.disks.vmfs.blocks import Census

_MOST = 1 << 22  # extents, and items, that are remembered
_MOST_PAIRS = 100


class Claims:
    """What the files of one volume claim."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._keys: set[str] = set()
        self._extents: list[tuple[int, int, int]] = []
        self._items: dict[int, int] = {}
        self._shared: set[tuple[int, int]] = set()

    def add(self, key: str, path: str, census: Census) -> None:
        """What the block map of a file holds; the same file again, by another name, claims nothing."""
        if key in self._keys:
            return
        self._keys.add(key)
        number = len(self._paths)
        self._paths.append(path)
        room = _MOST - len(self._extents)
        self._extents += [(first, count, number) for first, count in census.extents[:room]]
        for item in census.items:
            if len(self._items) < _MOST:
                self._share(self._items.setdefault(item, number), number)

    def shared(self) -> list[tuple[str, str]]:
        """The paths of files that claim the same, in pairs; no more than anybody reads."""
        end, owner = -1, -1
        for first, count, number in sorted(self._extents):
            if first < end:
                self._share(owner, number)
            if first + count > end:
                end, owner = first + count, number
        return sorted((self._paths[one], self._paths[two]) for one, two in self._shared)

    def _share(self, one: int, two: int) -> None:
        if one != two and len(self._shared) < _MOST_PAIRS:
            self._shared.add((one, two))
