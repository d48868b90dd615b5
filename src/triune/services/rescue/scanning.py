"""From sources to the volumes that a scan finds on them.

What puts volumes together is imported once there is something to put together: a pass over what holds nothing is as
quick as reading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from triune.services.rescue.scan import Told, sweep
from triune.services.rescue.session import Session

if TYPE_CHECKING:
    from triune.disks.source import Source
    from triune.services.rescue.volume import Volume


_NEEDED = {"fd", "fdc", "super", "lvm"}  # without any of these there is no volume


def scan_volumes(sources: Sequence[Source], session: Path | None = None, told: Told | None = None) -> list[Volume]:
    """The volumes that a scan finds, those that are before those that were; empty where there is none.

    With the folder of a `session`, what was scanned before is not scanned again.
    """
    marks = Session(sources, session)
    sweep(marks, told)
    if not any(_NEEDED & marks.kinds(number).keys() for number in range(len(sources))):
        return []
    from triune.services.rescue.generations import found_by_base, generations
    from triune.services.rescue.rebuild import RebuiltVolume
    from triune.services.rescue.rebuild_extents import adopt
    from triune.services.rescue.rebuild_inner import outermost

    found = generations(outermost(found_by_base(marks)))
    adopt(marks, found)
    return [RebuiltVolume(generation) for generation in found]
