"""Internal snapshots of a domain's qcow2 disks: by QEMU itself where it runs, else by qemu-img.

Nobody but the process that writes a qcow2 image may change its snapshots, so who does it depends on what runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triune.disks.qcow2_tables import Qcow2Snapshot, read_snapshots
from triune.domain.errors import Failed
from triune.engines.kvm.client import Client
from triune.engines.kvm.drives import Drive
from triune.engines.kvm.monitor import Monitor
from triune.host.run import run

UNDO = "triune-undo"  # the state before a restore, while it goes on


class DiskStates:
    """Those of one domain's disks, all treated alike. Every name is one state over all disks."""

    def __init__(self, client: Client, domain: Any, name: str, drives: Sequence[Drive]) -> None:
        self._drives = drives
        self._domain = domain
        self._client = client
        self._name = name
        self._monitor = Monitor(client, domain, name)

    def take(self, state: str) -> None:
        """Keep the disks as they are now, all at one instant. On an error none is kept."""
        if self._runs():
            nodes = self._monitor.nodes()
            actions = [
                {"type": "blockdev-snapshot-internal-sync", "data": {"device": nodes[drive.path], "name": state}}
                for drive in self._drives
            ]
            self._monitor.ask("transaction", {"actions": actions})
            return
        try:
            for drive in self._drives:
                run(["qemu-img", "snapshot", "-q", "-c", state, drive.path], timeout=None)
        except BaseException:
            with contextlib.suppress(Failed):
                self.drop(state)
            raise

    def apply(self, state: str) -> None:
        """Put the disks of a stopped domain back. On an error all are as before."""
        if len(self._drives) == 1:
            self._apply(state)
            return
        with self.kept():
            self._apply(state)

    def _apply(self, state: str) -> None:
        for drive in self._drives:
            run(["qemu-img", "snapshot", "-q", "-a", state, drive.path], timeout=None)

    @contextlib.contextmanager
    def kept(self) -> Any:
        """Within it the disks' present state is kept; an error puts it back (the domain must be stopped by then)."""
        self.drop(UNDO)  # what a crash left
        self.take(UNDO)
        try:
            yield
        except BaseException:
            self._apply(UNDO)
            raise
        finally:
            self.drop(UNDO)

    def drop(self, state: str) -> None:
        """Forget a state on every disk that has it."""
        with_it = [drive for drive in self._drives if any(one.name == state for one in snapshots(drive.path))]
        if not with_it:
            return
        nodes = self._monitor.nodes() if self._runs() else {}
        for drive in with_it:
            if drive.path in nodes:
                arguments = {"device": nodes[drive.path], "name": state}
                self._monitor.ask("blockdev-snapshot-delete-internal-sync", arguments)
            else:
                run(["qemu-img", "snapshot", "-q", "-d", state, drive.path], timeout=None)

    def has(self, state: str) -> bool:
        """Whether any disk has it."""
        return any(one.name == state for drive in self._drives for one in snapshots(drive.path))

    def _runs(self) -> bool:
        with self._client.errors(self._name):
            return bool(self._domain.isActive())


def snapshots(path: Path) -> Sequence[Qcow2Snapshot]:
    """The snapshots in an image; a missing one has none."""
    try:
        with path.open("rb") as stream:
            return read_snapshots(stream)
    except FileNotFoundError:
        return ()
