"""How far a scan or an extraction is, on a terminal: share, speed, time left and what is worked on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from triune.cli.text import clean
from triune.services.rescue.meter import Meter

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from triune.services.rescue.scan import Position

_EVERY = 0.2


@contextmanager
def metered(*, quiet: bool = False) -> Iterator[Meter]:
    """A meter that is shown for as long as this lasts, where stderr is a terminal."""
    meter = Meter()
    if quiet or not sys.stderr.isatty():
        yield meter
        return
    ended = Event()
    thread = Thread(target=_show, args=(meter, ended), daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        ended.set()
        thread.join()


def _bars(width: int, before: Sequence[str | ProgressColumn], after: str | ProgressColumn, *, wide: bool) -> Progress:
    """A bar with bytes, speed and time left between other columns; it goes when it ends."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        SpinnerColumn(),
        *before,
        BarColumn(bar_width=width),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        after,
        console=Console(stderr=True),
        transient=True,
        expand=wide,
    )


def _show(meter: Meter, ended: Event) -> None:
    from rich.progress import TextColumn
    from rich.table import Column

    name = TextColumn(
        "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    bars = _bars(20, [TextColumn("{task.fields[files]}", markup=False)], name, wide=True)
    with bars:
        task = bars.add_task("looking for files", total=None, files="")
        while not ended.wait(_EVERY):
            if not meter.files:
                continue
            doing = clean(", ".join(list(meter.current.values())))
            files = f"{meter.files_done}/{meter.files} files"
            bars.update(task, completed=meter.done, total=meter.total, description=doing, files=files)


@contextmanager
def scanned() -> Iterator[Callable[[Position], None] | None]:
    """Shows how far the scan is, where stderr is a terminal; nothing before it begins: a password may be asked for."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import TextColumn

    bars = _bars(24, [], TextColumn("{task.description}", markup=False), wide=False)
    task = bars.add_task("", total=None)

    def told(position: Position) -> None:
        bars.start()
        doing = f"{position.found} structures found" if position.done < position.total else "putting it together"
        bars.update(task, completed=position.done, total=position.total, description=doing)

    try:
        yield told
    finally:
        bars.stop()
