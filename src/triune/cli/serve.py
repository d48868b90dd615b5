"""`serve`: the daemon in this process, or in the background."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import click

from triune.domain.errors import Conflict, Failed, TriuneError
from triune.host.coming import await_answer
from triune.host.setup.machine import Machine
from triune.sdk import Client

_PID_FILE = Path("/run/triune/triune.pid")
_LOG_FILE = Path("/var/log/triune.log")


@click.command()
@click.option("--detach", is_flag=True, help="Start it in the background and return when it answers.")
@click.option("--pid-file", type=click.Path(path_type=Path), help=f"With --detach: {_PID_FILE} by default.")
@click.option("--log-file", type=click.Path(path_type=Path), default=_LOG_FILE, show_default=True, help="For --detach.")
@click.option("--verbose", is_flag=True, help="Log more.")
def serve(detach: bool, pid_file: Path | None, log_file: Path, verbose: bool) -> None:
    """Run the daemon until it gets SIGTERM.

    It reads /etc/triune/triune.toml (or the file that TRIUNE_CONFIG names) and TRIUNE_DATA, TRIUNE_SOCKET and
    TRIUNE_GROUP; docs/SETTINGS.md has all settings.
    """
    from triune.api import server

    settings = server.load_settings()
    if detach:
        _detach(settings.socket, pid_file or _PID_FILE, log_file, verbose)
        return
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("urllib3", "docker", "websockets", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    server.serve(settings, pid_file=pid_file)


def _detach(socket: Path, pid_file: Path, log_file: Path, verbose: bool) -> None:
    """Start this program again in a session of its own, and wait until it answers. Raises Failed."""
    argv = [sys.executable, "-m", "triune", "serve", "--pid-file", str(pid_file.absolute())]
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            begin = log.tell()
            child = subprocess.Popen(
                [*argv, "--verbose"] if verbose else argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=dict(os.environ),
            )
    except OSError as error:
        raise Failed("log_denied", f"can't write {log_file}: {error.strerror}", hint="Run it as root.") from None
    machine = Machine()
    why = await_answer(
        # Its process file is written once it has the data folder: until then another daemon may answer.
        lambda: _runs(pid_file, child.pid) and _answers(socket),
        lambda: machine.spent(child.pid),
        lambda text: print(f"the daemon (process {child.pid}): {text}; its log is {log_file}", file=sys.stderr),
    )
    if not why:
        print(f"the daemon runs (process {child.pid}), listening at {socket}")
        return
    if child.poll() is not None:
        kind = Conflict if child.returncode == Conflict.exit_code else Failed
        raise kind(
            "daemon_ended",
            f"the daemon ended at once: {_last(log_file, begin)}",
            hint=f"See its log: {log_file}",
            status=child.returncode,
        )
    raise Failed("daemon_silent", f"the daemon (process {child.pid}) {why}", hint=f"See its log: {log_file}")


def _runs(pid_file: Path, pid: int) -> bool:
    try:
        return pid_file.read_text().strip() == str(pid)
    except OSError:
        return False


def _answers(socket: Path) -> bool:
    try:
        Client(str(socket)).version()
    except TriuneError:
        return False
    return True


def _last(log_file: Path, begin: int) -> str:
    """What it said since then, in a line."""
    with log_file.open("rb") as log:
        log.seek(begin)
        said = log.read(64 * 1024).decode(errors="replace").strip().splitlines()
    errors = [line for line in said if line.startswith("error:")]
    return (errors or said or ["it said nothing"])[-1].removeprefix("error: ")
