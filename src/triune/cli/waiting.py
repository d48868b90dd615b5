"""Waiting for operations: to their result, with progress; an interrupt cancels what may be cancelled."""

from __future__ import annotations

import sys
from time import monotonic

from triune.cli.problems import tell
from triune.cli.progress import Progress
from triune.domain.errors import TriuneError
from triune.domain.units import format_duration
from triune.sdk.client import Client
from triune.sdk.operations import outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from triune.sdk.types import OperationRow


def finish(client: Client, operation: OperationRow, name: str, *, cancel: bool = True, quiet: bool = False) -> Any:
    """Wait for one operation with a display and return its result. Raises its error.

    On an interrupt it is cancelled if `cancel`, else it goes on; the interrupt is raised again.
    """
    try:
        with Progress(quiet=quiet) as progress:
            return outcome(client.operations.wait(operation["id"], progress=progress.of(name)))
    except KeyboardInterrupt:
        if cancel and _cancelled(client, operation["id"]):
            print(f"cancelled; what was made for {name} is being removed", file=sys.stderr)
        else:
            print(f"it goes on in the daemon: triune ops show {operation['id']}", file=sys.stderr)
        raise


def _cancelled(client: Client, operation: str) -> bool:
    """Whether it could be cancelled; what has its result already, and only waits, can't."""
    try:
        client.operations.cancel(operation)
    except TriuneError:
        return False
    return True


def each(names: Sequence[str], action: Callable[[Client, str], OperationRow], done: str, *, quiet: bool = False) -> int:
    """Do something with several instances at once; report each (`quiet`: only errors); return the worst exit code."""
    from triune.cli.parallel import at_once

    client = Client()
    unique = list(dict.fromkeys(names))
    try:
        with Progress(steps=False, quiet=quiet) as progress:
            return max(at_once(unique, lambda name: _one(client, name, action, "" if quiet else done, progress)))
    except KeyboardInterrupt:
        print("what was asked for goes on in the daemon: triune ops list --running", file=sys.stderr)
        raise


def _one(
    client: Client, name: str, action: Callable[[Client, str], OperationRow], done: str, progress: Progress
) -> int:
    begun = monotonic()
    try:
        operation = action(client, name)
        told = progress.of(name) if sys.stderr.isatty() else None
        outcome(client.operations.wait(operation["id"], progress=told))
    except TriuneError as error:
        progress.done(name)
        return tell(error, name=name)
    progress.done(name)
    if done:
        print(f"{name} {done} ({format_duration(monotonic() - begun)})", flush=True)
    return 0
