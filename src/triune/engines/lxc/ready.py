"""Waiting until a container can do its work."""

from __future__ import annotations

import time
from pathlib import Path

from triune.domain.errors import Failed
from triune.domain.operation import Progress
from triune.engines.lxc.client import Client
from triune.host.beneath import Root

_SYSTEMD_SOCKET = "run/systemd/private"
_DONE = frozenset({"running", "degraded", "maintenance"})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25


def wait_ready(client: Client, name: str, timeout: float, progress: Progress) -> None:
    """Wait until init is up: systemd's startup finished, any other init running. Raises Failed("not_ready")."""
    client.require(name)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    while True:
        progress.check()
        pid = client.init_pid(name) if name in client.active() else None
        if pid is None:
            raise Failed("not_ready", f"{name} has stopped", hint=f"See why: triune logs {name}")
        said = _startup(client, name, pid)
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


def _startup(client: Client, name: str, pid: int) -> str:
    """systemd's word for how far it is ("running", "starting", …); "running" for another init."""
    try:
        if Path(f"/proc/{pid}/exe").readlink().name != "systemd":
            return "running"
        # Asking costs a process inside: not before there is somebody to answer.
        with Root(f"/proc/{pid}/root") as root:
            if not root.exists(_SYSTEMD_SOCKET, follow=False):
                return "initializing"
    except OSError:
        return "unknown"
    words = ("--clear-env", "--", "systemctl", "is-system-running")
    return client.tool("lxc-attach", name, *words).text.strip()
