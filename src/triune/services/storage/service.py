"""Pools and volumes together, as the application has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from triune.services.operations import Operations
from triune.services.storage.pools import Pools
from triune.services.storage.records import Use
from triune.services.storage.transfer import Transfers
from triune.services.storage.volumes import Volumes
from triune.store import Store


class Storage:
    """`uses` tells what every instance was launched with, `running` whether one runs."""

    def __init__(
        self,
        data: Path,
        store: Store,
        operations: Operations,
        uses: Callable[[], Sequence[Use]],
        running: Callable[[str], bool],
    ) -> None:
        self.pools = Pools(data, store, operations, uses)
        self.volumes = Volumes(store, operations, self.pools, uses, running)
        self.transfers = Transfers(operations, self.pools, self.volumes)

    def start(self) -> None:
        """Mount the pools. Call it before operations are recovered: their undo needs them."""
        self.pools.start()
