"""Waiting until a container can do its work."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from triune.domain.errors import Conflict, Failed
from triune.domain.operation import Progress
from triune.engines.base import Command, Commands
from triune.engines.lxc.client import Client
from triune.host.beneath import Root

_SYSTEMD_SOCKET = "run/systemd/private"
_DONE = frozenset({"running", "degraded", "maintenance"})
_ANSWER_PATIENCE_S = 5.0
_LONGEST_ANSWER = 64
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25


def wait_ready(client: Client, commands: Commands, name: str, timeout: float, progress: Progress) -> None:
    """Wait until init is up: systemd's startup finished, any other init running. Raises Failed("not_ready")."""
    client.require(name)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    while True:
        progress.check()
        pid = client.init_pid(name) if name in client.active() else None
        if pid is None:
            raise Failed("not_ready", f"{name} has stopped", hint=f"See why: triune logs {name}")
        said = _startup(commands, name, pid)
        if said in _DONE:
            return
        if time.monotonic() >= deadline:
            raise Failed(
                "not_ready",
                f"{name} was not ready within {timeout:g} s: its startup is {said!r}",
                hint=f"See what it waits for: triune exec {name} -- systemctl list-jobs",
            )
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE_S, pause * 1.5)


def _startup(commands: Commands, name: str, pid: int) -> str:
    """systemd's word for how far it is ("running", "starting", …); "running" for another init."""
    try:
        if Path(f"/proc/{pid}/exe").readlink().name != "systemd":
            return "running"
        # Asking costs a process inside: not before there is somebody to answer.
        with Root(f"/proc/{pid}/root") as root:
            if not root.exists(_SYSTEMD_SOCKET, follow=False):
                return "initializing"
        return _ask(commands, name)
    except (OSError, Conflict):
        return "unknown"


def _ask(commands: Commands, name: str) -> str:
    """What the guest's systemctl says: one word. It is the guest's program, so time and length are bounded."""
    session = commands.open(name, Command(argv=("systemctl", "is-system-running")))
    timer = threading.Timer(_ANSWER_PATIENCE_S, session.close)
    timer.start()
    said = b""
    try:
        while len(said) < _LONGEST_ANSWER and (output := session.read()) is not None:
            if output[0] == 1:
                said += output[1]
    finally:
        timer.cancel()
        session.close()
    return said[:_LONGEST_ANSWER].decode("ascii", errors="replace").strip()
