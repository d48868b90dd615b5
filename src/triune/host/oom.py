"""Tells when the kernel killed a process of a control group because the group had used up its memory.

v1: an eventfd registered with memory.oom_control (admin-guide/cgroup-v1/memory.rst, 10). v2: memory.events changes,
which poll(2) shows (admin-guide/cgroup-v2.rst). Both wake us; the counters `oom_kill` say whether one was killed.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# v1 tells before the kill is counted.
_LOOKS = (0.02, 0.1, 0.5, 2.0)

Tell = Callable[[str, int], None]
"""(name, how many processes were killed)"""


@dataclass(slots=True)
class _Watched:
    folder: Path
    fds: tuple[int, ...]
    told_by: int
    killed: int


class OomWatch:
    """One thread for any number of groups; at rest it sleeps."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._groups: dict[str, _Watched] = {}
        self._due: dict[str, tuple[float, int]] = {}
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="oom-watch", daemon=True)
        self._thread.start()

    def add(self, name: str, version: int, folder: Path, *, fresh: bool = False) -> None:
        """Watch a group by its folder of the memory controller, in place of what had the name. Gone: does nothing.

        A `fresh` group was made just now: what it has counted already is told too.
        """
        self.remove(name)
        mask = select.EPOLLIN if version == 1 else select.EPOLLPRI
        with self._lock:
            if self._ended:
                return
            try:
                watched = _register(version, folder)
            except OSError:
                return
            if fresh:
                watched.killed = 0
            self._groups[name] = watched
            self._poll.register(watched.told_by, mask | select.EPOLLERR)
        if fresh:
            self.look(name)

    def look(self, name: str) -> None:
        """Tell now of what was killed and not told yet."""
        self._look(name, in_turn=False)

    def remove(self, name: str) -> None:
        """Forget a group, after a last look at it."""
        self.look(name)
        with self._lock:
            watched = self._groups.pop(name, None)
            self._due.pop(name, None)
            if watched is not None:
                self._poll.unregister(watched.told_by)
                for fd in watched.fds:
                    os.close(fd)

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._ended = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for name in list(self._groups):
            self.remove(name)
        self._poll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while not self._ended:
            with self._lock:
                next_look = min((when for when, _ in self._due.values()), default=None)
            patience = -1 if next_look is None else max(0.0, next_look - time.monotonic())
            try:
                ready = {fd for fd, _ in self._poll.poll(patience)}
            except InterruptedError:
                continue
            self._note(ready)
            now = time.monotonic()
            for name in [name for name, (when, _) in list(self._due.items()) if when <= now]:
                self._look(name)

    def _note(self, ready: set[int]) -> None:
        """Those that were told of are to be looked at, soon."""
        with self._lock:
            for name, watched in self._groups.items():
                if watched.told_by in ready:
                    with suppress(OSError):
                        os.pread(watched.told_by, 4096, 0) if len(watched.fds) == 1 else os.read(watched.told_by, 8)
                    self._due[name] = (time.monotonic() + _LOOKS[0], 0)
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)

    def _look(self, name: str, *, in_turn: bool = True) -> None:
        """Tell of new kills; where there are none yet, look again a little later if this was its turn."""
        with self._lock:
            watched = self._groups.get(name)
            if watched is None:
                self._due.pop(name, None)
                return
            killed = kills(watched.folder)
            fresh, watched.killed = killed - watched.killed, max(killed, watched.killed)
            _, looks = self._due.get(name, (0.0, len(_LOOKS)))
            if fresh > 0 or (in_turn and looks + 1 >= len(_LOOKS)):
                self._due.pop(name, None)
            elif in_turn:
                self._due[name] = (time.monotonic() + _LOOKS[looks + 1], looks + 1)
        if fresh > 0:
            self._tell(name, fresh)


def kills(folder: Path) -> int:
    """How many processes of a group, and of those below it, were ever killed."""
    if (folder / "memory.events").exists():
        return _counter(folder / "memory.events")
    # In v1 each group counts its own; a system inside may have made some.
    return sum(_counter(path / "memory.oom_control") for path in (folder, *_below(folder)))


def _below(folder: Path) -> list[Path]:
    return [Path(place) / name for place, names, _ in os.walk(folder) for name in names]


def _counter(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    values = (line.split() for line in lines)
    return next((int(words[1]) for words in values if words[:1] == ["oom_kill"] and words[1].isdecimal()), 0)


def _register(version: int, folder: Path) -> _Watched:
    """Raises OSError when the group is gone."""
    if version == 2:
        fd = os.open(folder / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 4096)
        return _Watched(folder, (fd,), fd, kills(folder))
    control = os.open(folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        (folder / "cgroup.event_control").write_text(f"{event} {control}")
    except OSError as error:
        os.close(event)
        os.close(control)
        raise OSError(error.errno or errno.ENOENT, str(error)) from None
    return _Watched(folder, (event, control), event, kills(folder))
