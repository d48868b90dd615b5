"""Snapshots of containers with their running state, in a Docker engine of these tests' own that has a CRIU that works.

Where none can be had, the tests of the real thing are left out with the reason, and the refusal is looked at anyway.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.contract.adapters import TESTS, DockerAdapter
from tests.live import criu_tool
from tests.patience import PATIENCE, until
from triune.domain.errors import Conflict, Failed, Unsupported
from triune.domain.instance import State, VolumeMount
from triune.domain.operation import Silent
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan
from triune.engines.docker.containers import describe
from triune.engines.docker.engine import DockerEngine
from triune.engines.docker.processes import Processes

DOCKERD = shutil.which("dockerd", path="/usr/sbin:/usr/bin")

pytestmark = [
    pytest.mark.live,
    pytest.mark.heavy,
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(DOCKERD is None, reason="needs dockerd"),
]

FOLDER = TESTS / "snap-criu"
STATE = FOLDER / "state"
SOCKET = FOLDER / "docker.sock"
SILENT = Silent()
# It counts in its memory alone; each number goes to the layer, to a volume and to its output.
COUNT = "i=0; while :; do i=$((i+1)); echo $i > /at; echo $i > /data/at; echo $i; sleep 0.05; done"
_numbers = itertools.count(1)


class CriuAdapter(DockerAdapter):
    reference = "tcriu-live:1"

    def make(self) -> DockerEngine:
        return DockerEngine(f"unix://{SOCKET}", state_dir=STATE)


ADAPTER = CriuAdapter()


def start_dockerd(folder: Path, *options: str, path: Path | None = None) -> subprocess.Popen[bytes]:
    """An engine with namespaces of its own, so that its mounts, bridges and rules end with it."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    argv = ["unshare", "--net", "--mount", "--propagation", "private"]
    # CRIU tries TCP on the host's loopback, and can't mount a link again, as Debian's docker-init is one.
    argv += ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", str(DOCKERD), "--bridge", "none", "--iptables=false"]
    argv += ["--init-path", os.path.realpath(shutil.which("docker-init") or "docker-init")]
    argv += [word for key, value in places.items() for word in (f"--{key}", str(folder / value))]
    search = os.environ["PATH"] if path is None else f"{path}:{os.environ['PATH']}"
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [*argv, "--host", f"unix://{folder}/docker.sock", *options],
            env={**os.environ, "PATH": search},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def stop_dockerd(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.terminate()
    process.wait(PATIENCE)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    path, reason = criu_tool.working()
    if path is None:
        pytest.skip(f"hardware: the real thing is not tried, there is no CRIU that works here: {reason}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    process = start_dockerd(FOLDER, "--experimental", path=path)
    try:
        made = ADAPTER.make()
        until(lambda: made.probe().available)
        ADAPTER.form(made)
        yield made
        for row in made.list():
            made.delete(row.name)
        assert left() == []
    finally:
        stop_dockerd(process, FOLDER)


def left() -> list[str]:
    """What snapshots are made of, and what Docker keeps of processes."""
    return [
        *(line for line in docker("images", "--format", "{{.Repository}}").split() if line != "tcriu-live"),
        *docker("ps", "-a", "--format", "{{.Names}}").split(),
        *(str(one) for one in (STATE / "snapshots").glob("*")),
        *(str(one) for one in (FOLDER / "data/containers").glob("*/checkpoints/*")),
    ]


def docker(*argv: str) -> str:
    done = subprocess.run(
        ["/usr/bin/docker", "--host", f"unix://{SOCKET}", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def name(engine: DockerEngine) -> Iterator[str]:
    text = f"tcriu-{next(_numbers)}"
    yield text
    engine.delete(text)
    subprocess.run(["/usr/bin/docker", "--host", f"unix://{SOCKET}", "volume", "rm", f"{text}-data"], check=False)
    assert left() == []


def launch(engine: DockerEngine, name: str, script: str = COUNT, **changes: Any) -> None:
    volumes = (VolumeMount(source=f"{name}-data", target="/data"),)
    plan = ADAPTER.plan(engine, name, volumes=volumes, command=("sh", "-c", script), **changes)
    engine.create(plan, SILENT)
    engine.start(name, SILENT)
    if script.endswith(COUNT):
        until(lambda: said(name))


def said(name: str) -> list[int]:
    """What it has counted, from the container's own output."""
    return [int(line) for line in docker("logs", name).split()]


def take(engine: DockerEngine, name: str, snapshot: str) -> Snapshot:
    assert engine.snapshots is not None
    wanted = Snapshot(name=snapshot, created=datetime.now(UTC), consistency=Consistency.CRASH, memory=True)
    return engine.snapshots.create(name, wanted, SILENT)


def restore(engine: DockerEngine, name: str, snapshot: str) -> None:
    assert engine.snapshots is not None
    engine.snapshots.restore(name, snapshot, SILENT)


def goes_on(name: str, files: Mapping[str, int]) -> None:
    """It counts on from where its files were, whatever it had reached since."""
    until(lambda: len(said(name)) > 3)
    first, *more = said(name)
    assert more == list(range(first + 1, first + 1 + len(more)))
    # It may have been held between the counting and the writing, or the writing and the telling.
    assert {first - at for at in files.values()} <= {0, 1}, (first, files)


def kept_files() -> dict[str, int]:
    """The number in the copies of the layer and of the volume, of the only snapshot."""
    (folder,) = (STATE / "snapshots").glob("*")
    return {part: int((folder / part / "at").read_text()) for part in ("layer", "volume-0")}


def counts(engine: DockerEngine, name: str) -> None:
    """It runs, and was never interrupted."""
    assert engine.get(name).instance.state is State.RUNNING
    now = len(said(name))
    until(lambda: len(said(name)) > now)
    numbers = said(name)
    assert numbers == list(range(1, len(numbers) + 1))


def test_processes_go_on_where_they_were_as_often_as_asked(engine: DockerEngine, name: str) -> None:
    assert "snapshots.memory" not in engine.probe().missing
    assert engine.snapshots is not None
    assert engine.snapshots.memory
    launch(engine, name, "(while :; do echo here | nc -l -p 80; done) & " + COUNT)
    until(lambda: len(said(name)) > 20)
    taken = take(engine, name, "one")
    assert (taken.memory, taken.consistency) == (True, Consistency.MEMORY)
    assert (taken.size or 0) > 50_000, "its memory is counted too"
    (listed,) = engine.snapshots.list(name)
    assert listed == taken
    counts(engine, name)
    files = kept_files()
    assert min(files.values()) > 19
    for _ in range(2):
        docker("exec", name, "sh", "-c", "echo changed > /at; echo changed > /data/at; echo new > /new")
        engine.stop(name, timeout=0, force=True, progress=SILENT)
        restore(engine, name, "one")
        assert engine.get(name).instance.state is State.RUNNING
        goes_on(name, files)
        assert docker("exec", name, "sh", "-c", "test -e /new || echo gone") == "gone"
        assert docker("exec", name, "nc", "127.0.0.1", "80") == "here"
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    engine.start(name, SILENT)
    until(lambda: 1 in said(name))
    engine.snapshots.delete(name, "one", SILENT)
    assert engine.snapshots.list(name) == []


def test_a_clone_has_the_files_and_begins_anew(engine: DockerEngine, name: str) -> None:
    launch(engine, name)
    take(engine, name, "one")
    files = kept_files()
    new = f"{name}-new"
    plan = ClonePlan(name=name, new=new, created=datetime.now(UTC), machine_id="0" * 31 + "1", snapshot="one")
    assert engine.cloning is not None
    try:
        engine.cloning.clone(plan, SILENT)
        assert engine.get(new).instance.state is State.STOPPED
        described = describe(engine._client, new)
        assert int((Path(described["GraphDriver"]["Data"]["UpperDir"]) / "at").read_text()) == files["layer"]
        engine.start(new, SILENT)
        until(lambda: said(new))
        assert said(new)[0] == 1
    finally:
        engine.delete(new)


def test_what_criu_refuses_is_said_and_changes_nothing(engine: DockerEngine, name: str) -> None:
    connected = "(sleep 1000 | nc -l -p 7) & sleep 0.2; (sleep 1000 | nc 127.0.0.1 7) & "
    launch(engine, name, connected + COUNT)
    until(lambda: len(said(name)) > 10)
    with pytest.raises(Failed, match=r"CRIU says: inet: Connected TCP socket") as caught:
        take(engine, name, "one")
    assert caught.value.code == "processes_not_kept"
    counts(engine, name)
    assert engine.snapshots is not None
    assert engine.snapshots.list(name) == []
    assert left() == [name]


def test_what_can_not_be_kept_is_refused_before(engine: DockerEngine, name: str) -> None:
    launch(engine, name)
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    with pytest.raises(Conflict) as stopped:
        take(engine, name, "one")
    assert stopped.value.code == "instance_not_running"
    engine.delete(name)
    docker("run", "-dt", "--name", name, ADAPTER.reference)
    with pytest.raises(Unsupported, match="terminal"):
        take(engine, name, "one")


def test_what_can_not_go_on_is_said_and_all_is_as_before(
    engine: DockerEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(engine, name)
    take(engine, name, "one")
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    before = describe(engine._client, name)["Id"]
    real = engine._client.post
    monkeypatch.setattr(engine._client, "post", lambda path, **_: real(path))
    with pytest.raises(Failed, match="from the beginning"):
        restore(engine, name, "one")
    monkeypatch.undo()
    assert describe(engine._client, name)["Id"] == before
    assert engine.get(name).instance.state is State.STOPPED
    assert docker("ps", "-a", "--format", "{{.Names}}").split() == [name]
    restore(engine, name, "one")
    goes_on(name, kept_files())
    (core,) = (STATE / "snapshots").glob("*/processes/core-1.img")
    core.write_bytes(b"")
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    with pytest.raises(Failed, match="CRIU says: Unexpected EOF"):
        restore(engine, name, "one")
    assert engine.get(name).instance.state is State.STOPPED
    assert docker("ps", "-a", "--format", "{{.Names}}").split() == [name]


# Killed at a step, as by kill -9, in a process of its own; "going" is after Docker has let the processes go on.
PROGRAM = """
import os, sys
from tests.live import test_snapshots_criu as tests
from triune.domain.operation import Silent
from triune.engines.docker.processes import Processes

def die(*_):
    os.kill(os.getpid(), 9)

class Mortal(Silent):
    def step(self, name, text):
        if name == sys.argv[3]:
            die()

def going(self, *words, real=Processes.go_on):
    real(self, *words)
    die()

if sys.argv[3] == "going":
    Processes.go_on = going
tests.SILENT = Mortal()
action, name = sys.argv[1:3]
{"create": tests.take, "restore": tests.restore}[action](tests.ADAPTER.make(), name, sys.argv[4])
"""


def killed(action: str, name: str, step: str, snapshot: str) -> None:
    argv = [sys.executable, "-c", PROGRAM, action, name, step, snapshot]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, f"{done.returncode} {done.stderr}"


def test_killed_while_it_takes_one(engine: DockerEngine, name: str) -> None:
    launch(engine, name)
    assert engine.snapshots is not None
    for step in ("docker-processes", "docker-layer", "docker-memory"):
        killed("create", name, step, "one")
        engine.snapshots.delete(name, "one", SILENT)
        counts(engine, name)
        assert left() == [name]


def test_killed_while_it_is_put_back(engine: DockerEngine, name: str) -> None:
    launch(engine, name)
    take(engine, name, "one")
    files = kept_files()
    engine.stop(name, timeout=0, force=True, progress=SILENT)
    for step in ("docker-switch", "docker-go-on", "going"):
        killed("restore", name, step, "one")
        restore(engine, name, "one")
        goes_on(name, files)
        assert docker("ps", "-a", "--format", "{{.Names}}").split() == [name]
        assert [one for one in left() if "checkpoints" in one] == []


def test_killed_while_docker_writes(engine: DockerEngine, name: str) -> None:
    big = "x=0123456789abcdef; for n in 1 2 3 4 5 6 7 8 9 a b c d e f g h i j k; do x=$x$x; done; " + COUNT
    launch(engine, name, big)
    until(lambda: said(name))
    argv = [sys.executable, "-c", PROGRAM, "create", name, "docker-layer", "one"]
    taking = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
    until(lambda: any("checkpoints" in one for one in left()))
    taking.kill()
    assert taking.wait(PATIENCE) == -signal.SIGKILL
    assert engine.snapshots is not None
    engine.snapshots.delete(name, "one", SILENT)
    time.sleep(2)
    counts(engine, name)
    take(engine, name, "two")
    restore(engine, name, "two")
    goes_on(name, kept_files())


def test_without_criu_or_experiments_it_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = Path("/var/tmp/triune-tests/snap-plain")
    shutil.rmtree(folder, ignore_errors=True)
    process = start_dockerd(folder)
    try:
        plain = DockerEngine(f"unix://{folder}/docker.sock", state_dir=tmp_path)
        until(lambda: plain.probe().available)
        assert plain.snapshots is not None
        assert plain.snapshots.memory is False
        reason = plain.probe().missing["snapshots.memory"]
        print(f"without --experimental: {reason}")
        assert "--experimental" in reason or "criu" in reason.lower()
        assert Processes(plain._client).why_not() == reason
    finally:
        stop_dockerd(process, folder)
