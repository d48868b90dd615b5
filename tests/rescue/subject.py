"""The rescue itself, as the proofs call it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.rescue.overlay import Overlay
from triune.services.rescue.volume import Volume


def opened(*disks: Overlay) -> Sequence[Volume]:
    """The volumes that open as healthy ones."""
    from triune.services.rescue.opening import open_volumes

    return open_volumes(disks)


def read(*disks: Overlay) -> Sequence[Volume]:
    """The volumes as every command sees them: opened where nothing is wrong, else scanned."""
    from triune.services.rescue.finding import read_volumes

    return read_volumes(disks)


def scanned(*disks: Overlay) -> Sequence[Volume]:
    """The volumes that a scan finds."""
    from triune.services.rescue.scanning import scan_volumes

    return scan_volumes(disks)
