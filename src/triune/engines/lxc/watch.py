"""Native events: what lxc-monitor says, and folders that come and go below the LXC path.

One thread, and no polling at rest.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from triune.engines.base import EngineEvent, EventSink
from triune.host import polling
from triune.host.inotify import Change, FolderWatch
from triune.host.run import environment

_STATE_LINE = re.compile(r"'(.+)' changed state to \[([A-Z]+)\]")
_ACTIONS = {"RUNNING": "started", "STOPPED": "stopped", "FROZEN": "paused", "THAWED": "resumed"}
_BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
# A folder counts as a container once its configuration is there; lxc-create and we write it a little later.
_CREATED_PATIENCE_S = 30.0
_CREATED_POLL_S = 0.2


def state_event(line: str, last: dict[str, str]) -> EngineEvent | None:
    """Our event for one line of lxc-monitor, or None where nothing changed.

    liblxc says FROZEN and THAWED twice, and RUNNING after THAWED; `last` keeps each container's latest action.
    """
    match = _STATE_LINE.fullmatch(line.strip())
    if not match or match[2] not in _ACTIONS:
        return None
    name, action = match[1], _ACTIONS[match[2]]
    before = last.get(name)
    if action == before or (action == "started" and before == "resumed"):
        return None
    if action == "started" and before == "paused":
        action = "resumed"
    if action == "stopped":
        last.pop(name, None)
    else:
        last[name] = action
    return EngineEvent(engine="lxc", action=action, name=name)


class LxcWatch:
    """A thread that tells events until `close`."""

    def __init__(self, path: Path, sink: EventSink) -> None:
        self._path = path
        self._sink = sink
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._ended = threading.Event()
        self._monitor: subprocess.Popen[bytes] | None = None
        self._line = b""
        self._last: dict[str, str] = {}
        self._known: set[str] = set()
        self._pending: dict[str, float] = {}
        self._moved: tuple[int, str] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="lxc-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and the monitor."""
        self._ended.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        folder: FolderWatch | None = None
        try:
            while not self._ended.is_set():
                folder = folder or self._watch_folder()
                self._start_monitor()
                self._wait(folder)
        finally:
            self._end_monitor()
            if folder:
                folder.close()

    def _watch_folder(self) -> FolderWatch | None:
        try:
            watch = FolderWatch(self._path)
        except OSError:
            return None
        self._known = {entry.name for entry in self._path.iterdir() if (entry / "config").exists()}
        return watch

    def _start_monitor(self) -> None:
        if self._monitor or time.monotonic() < self._retry_at:
            return
        try:
            self._monitor = subprocess.Popen(
                ["lxc-monitor", "-P", str(self._path), "-n", ".*"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(),
                cwd="/",
            )
        except OSError:
            self._retry_later()
            return
        self._line = b""
        if self._failures:
            self._tell("engine-up", "")

    def _retry_later(self) -> None:
        self._retry_at = time.monotonic() + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1

    def _wait(self, folder: FolderWatch | None) -> None:
        """Wait for something, and tell it."""
        output = self._monitor.stdout.fileno() if self._monitor and self._monitor.stdout else -1
        names = folder.fileno() if folder else -1
        ready = polling.ready([fd for fd in (self._wake, output, names) if fd >= 0], timeout=self._timeout(folder))
        if folder and names in ready:
            for change in folder.read():
                self._changed(change)
        self._check_pending()
        if output in ready:
            self._read_monitor(output)

    def _timeout(self, folder: FolderWatch | None) -> float | None:
        if self._pending or self._moved:
            return _CREATED_POLL_S
        if self._monitor is None:
            return max(0.1, self._retry_at - time.monotonic())
        return None if folder else _BACKOFF_S[-1]

    def _read_monitor(self, fd: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            self._end_monitor()
            self._tell("engine-down", "")
            self._retry_later()
            return
        self._failures = 0
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if event := state_event(line.decode(errors="replace"), self._last):
                self._deliver(event)

    def _end_monitor(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return
        monitor.terminate()
        try:
            monitor.wait(2)
        except subprocess.TimeoutExpired:
            monitor.kill()
            monitor.wait()
        if monitor.stdout:
            monitor.stdout.close()

    def _changed(self, change: Change) -> None:
        if change.kind == "overflow":
            self._tell("engine-down", "")
            self._tell("engine-up", "")
            return
        if self._moved and change.kind == "moved-to" and change.cookie == self._moved[0]:
            self._renamed(self._moved[1], change.name)
            self._moved = None
            return
        self._forget_moved()
        if change.kind in ("created", "moved-to") and change.folder:
            self._pending[change.name] = time.monotonic() + _CREATED_PATIENCE_S
        elif change.kind == "moved-from":
            self._moved = (change.cookie, change.name)
        elif change.kind == "deleted":
            self._deleted(change.name)

    def _renamed(self, old: str, new: str) -> None:
        if old in self._known:
            self._known.discard(old)
            self._known.add(new)
            self._deliver(EngineEvent(engine="lxc", action="renamed", name=new, data={"old": old}))

    def _forget_moved(self) -> None:
        """A folder moved out of the path is as good as deleted."""
        if self._moved:
            moved, self._moved = self._moved, None
            self._deleted(moved[1])

    def _deleted(self, name: str) -> None:
        self._pending.pop(name, None)
        self._last.pop(name, None)
        if name in self._known:
            self._known.discard(name)
            self._tell("deleted", name)

    def _check_pending(self) -> None:
        for name, deadline in list(self._pending.items()):
            if (self._path / name / "config").exists():
                del self._pending[name]
                self._known.add(name)
                self._tell("created", name)
            elif time.monotonic() > deadline:
                del self._pending[name]
        self._forget_moved()

    def _tell(self, action: str, name: str) -> None:
        self._deliver(EngineEvent(engine="lxc", action=action, name=name))

    def _deliver(self, event: EngineEvent) -> None:
        # A sink that fails must not end the watch; it is the sink's owner who logs.
        with suppress(Exception):
            self._sink(event)
