"""The thread that guards the network."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping

import pytest
from tests.patience import PATIENCE

from triune.domain.errors import Failed
from triune.services.networks.watch import Pace, Watcher


class Networks:
    """Counts how often it is mended; its servers can't be read the second time."""

    def __init__(self) -> None:
        self.asked = 0
        self.mended = threading.Semaphore(0)

    def ensure(self) -> list[str]:
        self.mended.release()
        return []

    def port_joined(self, bridge: int, port: int, name: str) -> None:
        """Nothing joins."""

    def settle_ports(self) -> None:
        """Nothing to settle."""

    def bridges(self) -> Mapping[int, str]:
        return {}

    def servers(self) -> Iterable[int]:
        self.asked += 1
        if self.asked == 2:
            raise Failed("store_failed", "the database can't be read")
        return ()


@pytest.mark.skipif(os.geteuid() != 0, reason="hearing of nftables needs root")
def test_a_failure_does_not_end_it() -> None:
    networks = Networks()
    watcher = Watcher(networks, "triune-nowhere", Pace(debounce=0.0, check_every=0.05))
    watcher.start()
    try:
        assert all(networks.mended.acquire(timeout=PATIENCE) for _ in range(3))
    finally:
        watcher.close()
