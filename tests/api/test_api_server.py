"""The daemon as a process: its socket, its lock, its end, what it costs at rest."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.house import TRIUNE, command
from tests.patience import PATIENCE, until
from triune.api.server import open_socket
from triune.domain.errors import Denied, Invalid, TriuneError
from triune.engines.registry import EngineSettings, engines
from triune.sdk import Client

pytestmark = pytest.mark.heavy  # daemons of their own


class Process:
    """A paper daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "run" / "triune.sock"
        self.pid_file = folder / "run" / "triune.pid"
        self.env = {
            **os.environ,
            "TRIUNE_CONFIG": str(folder / "none.toml"),
            "TRIUNE_DATA": str(folder / "data"),
            "TRIUNE_SOCKET": str(self.socket),
            "TRIUNE_HOST": str(self.socket),
            "TRIUNE_GROUP": "no-such-group",
            "TRIUNE_FAKE_ENGINES": "lxc,kvm,docker",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.api.paper_daemon", str(self.pid_file)],
            env=self.env,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self.processes.append(process)
        return process

    def answers(self) -> Client:
        client = Client(str(self.socket))
        until(lambda: answered(client))
        return client


def answered(client: Client) -> bool:
    try:
        client.version()
    except TriuneError:
        return False
    return True


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_life(daemon: Process) -> None:
    process = daemon.start()
    client = daemon.answers()
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert daemon.pid_file.read_text() == f"{process.pid}\n"
    stream = client.events.stream()
    operation = client.instances.launch(name="web", image="docker:nginx", engine="docker")
    client.operations.result(operation["id"])

    second = daemon.start()
    assert second.wait(PATIENCE) == 4
    assert second.stderr is not None
    said = second.stderr.read().decode()
    assert f"process {process.pid}" in said
    assert "hint: " in said
    assert daemon.pid_file.exists(), "the second one must not touch what is the first one's"
    # Should the lock fail to hold it back, this configuration keeps it from touching the host.
    harmless = daemon.folder / "harmless.toml"
    harmless.write_text('[engines]\nenabled = ["no-such-engine"]\n')
    options = ["--pid-file", str(daemon.folder / "other.pid"), "--log-file", str(daemon.folder / "log")]
    detached = command(["serve", "--detach", *options], env={**daemon.env, "TRIUNE_CONFIG": str(harmless)})
    assert detached.returncode == 4
    assert b"another Triune daemon" in detached.stderr
    client.version()

    assert next(iter(stream))["type"].startswith("operation")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert b"graceful shutdown" not in process.stderr.read(), "an open event stream must not hold it up"
    assert not daemon.socket.exists()
    assert not daemon.pid_file.exists()

    daemon.start()
    again = daemon.answers()
    assert again.operations.get(operation["id"])["state"] == "done"


def test_the_socket_of_a_daemon_with_other_data_is_left_alone(daemon: Process) -> None:
    first = daemon.start()
    client = daemon.answers()
    daemon.env["TRIUNE_DATA"] = str(daemon.folder / "other-data")
    second = daemon.start()
    assert second.wait(PATIENCE) == 4
    assert second.stderr is not None
    assert b"another daemon listens at" in second.stderr.read()
    assert daemon.pid_file.read_text() == f"{first.pid}\n"
    client.version()


def test_an_engine_that_does_not_exist_cannot_be_enabled(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        engines(EngineSettings(state_dir=tmp_path, enabled=("lxc", "foo")))
    assert caught.value.code == "unknown_engine"


def test_after_a_kill_it_starts_again_over_the_stale_socket(daemon: Process) -> None:
    first = daemon.start()
    daemon.answers()
    first.kill()
    first.wait()
    assert daemon.socket.exists()
    daemon.start()
    daemon.answers()


def test_at_rest_it_costs_little(daemon: Process) -> None:
    process = daemon.start()
    daemon.answers()
    counters = Path(f"/proc/{process.pid}/stat")

    def used() -> int:
        return sum(int(field) for field in counters.read_text().rpartition(")")[2].split()[11:13])

    def rests() -> bool:
        before = used()
        time.sleep(0.5)
        return used() == before

    until(rests)  # it has begun
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert resident < 90 * 1024
    before, began = used(), time.monotonic()
    time.sleep(2)
    # 0.2 % of 2 s is less than one tick of the clock; one may fall into it by chance.
    ticks = 0.002 * (time.monotonic() - began) * os.sysconf("SC_CLK_TCK")
    assert used() - before <= 1 + ticks
    switches = Path(f"/proc/{process.pid}/status").read_text()
    assert "voluntary_ctxt_switches" in switches


def test_a_socket_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    taken = tmp_path / "folder"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(Denied) as caught:
        open_socket(taken, "no-such-group")
    assert str(taken) in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_a_socket_is_replaced_at_once_and_never_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = open_socket(path, "root")
    new = open_socket(path, "root")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        connection, _ = new.accept()
        connection.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    old.close()
    new.close()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("data = [", b"not valid TOML"),
        ('colour = "red"', b"unknown key"),
        ("[network]\nx = 1", b"unknown key"),
        ("data = 5", b"data in"),
        ('group = ["x"]', b"is not a text"),
        ("engines = 3", b"is not a table"),
        ('[engines]\nenabled = "lxc"', b"is not a list of texts"),
        ("[engines]\nlxc_path = 7", b"is not a path"),
        ("[network]\nlease_seconds = true", b"is not a whole number"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, config: str, said: bytes) -> None:
    path = tmp_path / "triune.toml"
    path.write_text(config)
    done = subprocess.run(
        [str(TRIUNE), "serve"], env={**os.environ, "TRIUNE_CONFIG": str(path)}, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert b"hint: " in done.stderr
