"""How far an extraction is, on a terminal: share, speed, time left and what is worked on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from triune.cli.text import clean
from triune.services.rescue.meter import Meter

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


def _show(meter: Meter, ended: Event) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    name = TextColumn(
        "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[files]}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        name,
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    with bars:
        task = bars.add_task("looking for files", total=None, files="")
        while not ended.wait(_EVERY):
            if not meter.files:
                continue
            doing = clean(", ".join(list(meter.current.values())))
            files = f"{meter.files_done}/{meter.files} files"
            bars.update(task, completed=meter.done, total=meter.total, description=doing, files=files)
