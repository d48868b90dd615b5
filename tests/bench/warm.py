"""Warm launches of virtual machines, beside cold ones and beside what the engines' own tools take to start anything."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tests.bench.place import touched
from tests.live.daemon import Daemon
from tests.live.system_fixtures import IMAGE

_SIZE = ("--engine", "kvm", "--memory", "256MiB")


def measure(daemon: Daemon, prefix: str, docker: str, rounds: int = 15) -> dict[str, list[float]]:
    """Seconds of each, in turn: `warm` and `cold` to the guest agent, `virsh`, `lxc`, `docker` to their tool's return.

    A warm launch is ready once its guest has answered under its own identity, which is more than a first ping.
    """
    daemon.run("image", "warm", IMAGE, "--engine", "kvm", "--memory", "256MiB", timeout=900)
    vm, container = f"{prefix}vm", f"{prefix}ct"
    daemon.run("launch", IMAGE, vm, *_SIZE, "--no-start")
    daemon.launch(IMAGE, container, "lxc", "--wait", "running")
    _run("lxc-stop", "-k", "-n", container)
    found: dict[str, list[float]] = {"warm": [], "cold": [], "virsh": [], "lxc": [], "docker": []}
    try:
        for number in range(rounds):
            name = f"{prefix}w{number}"
            found["warm"].append(_timed(lambda name=name: daemon.run("launch", IMAGE, name, *_SIZE)))  # type: ignore[misc]
            daemon.run("rm", name, "--yes", "--force")
            if number < 3:
                cold = _timed(lambda name=name: daemon.run("launch", IMAGE, name, *_SIZE, "--cold"))  # type: ignore[misc]
                found["cold"].append(cold)
                daemon.run("rm", name, "--yes", "--force")
            found["virsh"].append(_timed(lambda: _run("virsh", "start", vm)))
            _run("virsh", "destroy", vm)
            found["lxc"].append(_timed(lambda: _run("lxc-start", "-d", "-n", container)))
            _run("lxc-stop", "-k", "-n", container)
            started = _timed(lambda name=name: _run(docker, "run", "-d", "--name", name, "triune/debian:12"))  # type: ignore[misc]
            found["docker"].append(started)
            _run(docker, "rm", "-f", name)
    finally:
        daemon.remove_all(prefix)
        daemon.run("image", "warm", IMAGE, "--remove")
    return found


def _run(*argv: str) -> None:
    subprocess.run(argv, capture_output=True, check=True)


def _timed(action: Callable[[], object]) -> float:
    touched(1 << 30)
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin
