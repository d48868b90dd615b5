"""Whether a volume's bitmaps agree with what its files claim."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from triune.disks.vmfs.address import Kind, decode
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import Geometry
from triune.services.rescue.generations import Generation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KINDS = {Kind.SUB_BLOCK: "sb", Kind.POINTER_BLOCK: "pb", Kind.POINTER_BLOCK2: "pb2"}
_CACHED = 4096


class Bitmaps:
    """The bitmaps of a generation, as far as they survive; those of a former one are another's by now."""

    def __init__(self, generation: Generation, geometry: Geometry) -> None:
        self._geometry = geometry
        self._clusters = {} if generation.former else generation.clusters
        blocks = self._clusters.get("fb", {})
        usual = max((header.total for header in blocks.values()), default=1)
        self._per_cluster = geometry.small_per_cluster if geometry.wide else max(1, usual)
        self._used = lru_cache(_CACHED)(self._bits)

    def free(self, table: NDArray[np.uint64]) -> list[int]:
        """The indexes of addresses whose block or sub-block is free, as its cluster's surviving header says."""
        import numpy as np

        if not self._clusters:
            return []
        found: list[int] = []
        kinds = table & np.uint64(7)
        where = np.flatnonzero(kinds == Kind.FILE_BLOCK)
        numbers = file_blocks(table, self._geometry)
        clusters = numbers // self._per_cluster
        for cluster in np.unique(clusters).tolist():
            used = self._used(cluster)
            if used is None:
                continue
            mine = clusters == cluster
            items = numbers[mine] - cluster * self._per_cluster
            inside = items < len(used)
            free = ~inside
            free[inside] = ~used[items[inside]]
            found.extend(where[mine][free].tolist())
        for index in np.flatnonzero(kinds == Kind.SUB_BLOCK).tolist():
            if self.is_free(int(table[index])):
                found.append(index)
        return found

    def is_free(self, value: int) -> bool:
        """Whether a sub-block or pointer block is free, as its cluster's surviving header says."""
        try:
            address = decode(value, self._geometry)
        except Damaged:
            return False
        header = self._clusters.get(_KINDS.get(address.kind, ""), {}).get(address.cluster)
        return header is not None and not header.has(address.item)

    def uses(self, number: int) -> bool:
        """Whether a file block is in use, as its cluster's surviving header says."""
        cluster, item = divmod(number, self._per_cluster)
        used = self._used(cluster)
        return used is not None and item < len(used) and bool(used[item])

    def _bits(self, cluster: int) -> NDArray[np.bool_] | None:
        import numpy as np

        header = self._clusters.get("fb", {}).get(cluster)
        if header is None:
            return None
        raw = np.frombuffer(header.bits.to_bytes(-(-header.total // 8), "little"), np.uint8)
        return np.unpackbits(raw, bitorder="little")[: header.total].astype(np.bool_)


def file_blocks(values: NDArray[np.uint64], geometry: Geometry) -> NDArray[np.int64]:
    """The numbers of the file blocks among addresses."""
    import numpy as np

    wanted = values[values & np.uint64(7) == Kind.FILE_BLOCK]
    if not geometry.wide:
        narrow: NDArray[np.int64] = ((wanted >> np.uint64(6)) & np.uint64(0x3FFFFFF)).astype(np.int64)
        return narrow
    cluster = (wanted >> np.uint64(15)) & np.uint64(0x7FFFFFFF)
    item = (wanted >> np.uint64(51)) & np.uint64(0x1FFF)
    numbers: NDArray[np.int64] = (cluster * np.uint64(geometry.small_per_cluster) + item).astype(np.int64)
    return numbers
