"""What the tests of bad input and of bad days share: a daemon of their own, and how an error has to look."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import patience
from tests.live.daemon import CACHE, TRIUNE, Daemon
from tests.live.system_fixtures import ENGINES, data_folder

PREFIX = "tbad-"
BRIDGE = "triteC0"
DOCKER = "/usr/bin/docker"
PARAMS = [pytest.param(engine, marks=getattr(pytest.mark, engine)) for engine in ENGINES]


class Lodger(Daemon):
    """A daemon in the place of another one, which runs again after it: the network is not its own to remove."""

    def remove_network(self) -> None:
        """Leave it."""


def own_daemon(
    data: Path | None = None, engines: Mapping[str, str] | None = None, *, kind: type[Daemon] = Daemon
) -> Daemon:
    """A daemon, not started; one at a time. `engines` are settings of its engines."""
    data = data or data_folder("data-bad")
    made = kind(data, bridge=BRIDGE, table="triune_testc", domain="tritec.internal", candidates=["10.96.0.0/16"])
    config = data / "triune.toml"
    text = config.read_text().replace(f"{data}/network", f"{CACHE}/data-bad/network")
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in (engines or {}).items()]
    config.write_text(f"{text}\n[engines]\n{''.join(lines)}")
    return made


def refused(daemon: Daemon, exit_code: int, code: str, *argv: str, timeout: float = 60) -> str:
    """Run a command that must fail so, with a sentence, a hint and its code; returns what it said."""
    done = daemon.run(*argv, check=False, timeout=timeout)
    said = done.stderr.decode()
    assert done.returncode == exit_code, f"triune {' '.join(argv)}: {done.returncode}\n{said}"
    assert_error(said, code)
    return said


def assert_error(said: str, code: str) -> None:
    """An error has a sentence, a hint and its code, each on its line."""
    lines = said.splitlines()
    (sentence,) = [line for line in lines if line.startswith("error: ")]
    (hint,) = [line for line in lines if line.startswith("hint: ")]
    assert f"code: {code}" in lines, said
    assert len(sentence) > 20 and len(hint) > 8, said
    assert "Traceback" not in said and "unexpected" not in said


def out(*argv: str, check: bool = True) -> str:
    """Run another tool and return its output."""
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=60).stdout


def until(condition: Callable[[], object], within: float = 60) -> None:
    """Wait for something that others bring about."""
    patience.until(condition, within=within, pause=0.1)


def hosts() -> set[str]:
    """The names of ours that the host resolves."""
    lines = Path("/etc/hosts").read_text().splitlines()
    return {word for line in lines for word in line.split()[1:] if word.startswith(PREFIX) and "." not in word}


def begin(daemon: Daemon, *argv: str) -> subprocess.Popen[bytes]:
    """Start a command and go on."""
    return subprocess.Popen(
        [TRIUNE, *argv], env=daemon.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def resident(daemon: Daemon) -> int:
    """MiB of memory the daemon has."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024
