"""Restart the host's own daemons, with systemd or without, as a test must."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.patience import PATIENCE, until
from triune.host.run import environment

SYSTEMD = Path("/run/systemd/system").is_dir()


def _find(program: str) -> tuple[int, list[str]] | None:
    """The process of this program that has no parent of the same name, and its argv."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = _argv(int(entry.name))
        except OSError:
            continue
        if Path(argv[0]).name == program:
            return int(entry.name), argv
    return None


def _argv(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")


def _wait(what: Callable[[], bool], timeout: float = 60) -> None:
    until(what, "a daemon of the host did not come back", within=timeout, pause=0.1)


def _answers(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, timeout=PATIENCE).returncode == 0


def _stop(program: str, unit: str) -> list[str]:
    found = _find(program)
    assert found is not None, f"{program} is not running"
    pid, argv = found
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    if Path(f"/proc/{parent}/comm").read_text().strip() == "tini":
        argv = _argv(parent)
    if SYSTEMD:
        subprocess.run(["systemctl", "stop", unit, f"{unit}.socket"], check=True)
    else:
        os.kill(pid, signal.SIGTERM)
        _wait(lambda: _ended(pid))
    return argv


def _ended(pid: int) -> bool:
    """Gone, or a zombie: one that an earlier restart here started is our child."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _start(argv: list[str], unit: str) -> None:
    if SYSTEMD:
        subprocess.run(["systemctl", "start", unit], check=True)
        return
    with Path(f"/var/log/{unit}-test.log").open("ab") as log:
        subprocess.Popen(
            argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=environment()
        )


@contextmanager
def dockerd_stopped() -> Iterator[None]:
    """Docker is away while this lasts."""
    argv = _stop("dockerd", "docker")
    try:
        yield
    finally:
        _start(argv, "docker")
        _wait(lambda: _answers("/usr/bin/docker", "info"))


def restart_dockerd() -> None:
    """Stop Docker and start it the way it was started."""
    with dockerd_stopped():
        pass


def restart_libvirtd() -> None:
    """Stop libvirtd and start it the way it was started."""
    argv = _stop("libvirtd", "libvirtd")
    _start(argv, "libvirtd")
    _wait(lambda: _answers("virsh", "-q", "list"))


@contextmanager
def saved_ruleset() -> Iterator[None]:
    """Put back, afterwards, what others had in nftables and lost."""
    before = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    yield
    now = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    for block in before.split("\ntable ")[1:]:
        if f"table {block.splitlines()[0]}" not in now:
            subprocess.run(["nft", "-f", "-"], input=f"table {block}", text=True, check=True)
