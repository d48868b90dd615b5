"""The volumes that sources hold, whatever state they are in: the one door for every command that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from triune.disks.source import FileSource
from triune.domain.errors import NotFound
from triune.services.rescue.opening import open_volumes
from triune.services.rescue.volume import Volume


def volumes(sources: Sequence[str], session: Path | None = None) -> list[Volume]:
    """The volumes on all sources together, as the user named them. Raises NotFound("no_volume").

    Healthy ones so far; what a scan and its `session` know of damaged ones comes in here.
    """
    del session
    found: list[Volume] = list(open_volumes([FileSource(Path(name)) for name in sources]))
    if not found:
        raise NotFound("no_volume", f"there is no VMFS volume on {', '.join(sources)}", hint="Name all its extents.")
    return found
