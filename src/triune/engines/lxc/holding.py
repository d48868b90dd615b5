"""Holding a running container still while its files are copied: its processes are frozen, and thawed whatever happens.

A daemon that is killed meanwhile can't thaw. So the file `held` in the container's folder says that it is we who froze
it, and is locked for as long as we live: `let_go` thaws what a file says that nobody has locked.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from triune.domain.errors import Failed
from triune.domain.instance import State
from triune.domain.snapshot import Consistency
from triune.engines.lxc.client import Client
from triune.host import syscalls

FILE = "held"


class Hold:
    """One container that stands still until `release`. `consistency` says how."""

    def __init__(self, client: Client, name: str) -> None:
        """Freeze it if it runs; one that its user has paused stays so. Raises Failed("freeze_failed"), NotFound."""
        self._client = client
        self._name = name
        self._fd: int | None = None
        self.consistency = Consistency.STOPPED
        if name not in client.active():
            return
        self.consistency = Consistency.FROZEN
        if client.state(name) is State.PAUSED:
            return
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if not client.freeze(name):
                raise Failed(
                    "freeze_failed", f"{name} could not be held still", hint=f"Stop it first: triune stop {name}"
                )
        except BaseException:
            self.release()
            raise

    @property
    def _path(self) -> Path:
        return self._client.folder(self._name) / FILE

    def release(self) -> None:
        """Let it go on, if it was us who froze it. Repeating does nothing."""
        if self._fd is None:
            return
        _thaw(self._client, self._name)
        os.close(self._fd)
        self._fd = None


@contextmanager
def held(client: Client, name: str) -> Iterator[Hold]:
    """Hold it still inside the block."""
    hold = Hold(client, name)
    try:
        yield hold
    finally:
        hold.release()


def let_go(client: Client, name: str) -> None:
    """Thaw a container that somebody who has died held still. Not held: nothing to do."""
    path = client.folder(name) / FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _thaw(client, name)
    except BlockingIOError:
        return
    finally:
        os.close(fd)


def let_all_go(client: Client) -> None:
    """Thaw every container that somebody who has died held still."""
    for path in client.path.glob(f"*/{FILE}"):
        let_go(client, path.parent.name)


def _thaw(client: Client, name: str) -> None:
    if name in client.active():
        client.unfreeze(name)
    (client.folder(name) / FILE).unlink(missing_ok=True)


def write_out(path: Path, marker: str = "") -> None:
    """Have the file system of the folder on disk, then remove the `marker` in it. Raises OSError."""
    _write_out(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW), marker)


def _write_out(fd: int, marker: str) -> None:
    try:
        syscalls.syncfs(fd)
        if marker:
            with suppress(FileNotFoundError):
                os.unlink(marker, dir_fd=fd)
    finally:
        os.close(fd)


def write_out_later(path: Path, marker: str = "") -> None:
    """The same in the background; an error leaves the marker."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def work() -> None:
        with suppress(OSError):
            _write_out(fd, marker)

    # No daemon thread: whoever ends the process in an orderly way waits for it.
    threading.Thread(target=work, name="lxc-write-out").start()
