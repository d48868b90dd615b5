"""Steps of setup on canned hosts: what they lack, and that filling the gap closes it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.patience import PATIENCE
from tests.trees import DEBIAN_12, UBUNTU_24, CannedTools, plant

from triune.domain.errors import Conflict, Denied, Failed, Invalid, Unsupported
from triune.host.run import Result
from triune.host.setup import plan as planning
from triune.host.setup.accounts import Group, SubordinateIds, free_range
from triune.host.setup.daemons import Daemon, Docker, LiveRestore, daemons, read_config
from triune.host.setup.machine import Machine
from triune.host.setup.packages import Packages, family, parse_installed, parse_os_release, separate_virtiofsd, wanted
from triune.host.setup.plan import Options, apply, plan
from triune.host.setup.service import COMMAND, UNIT, CommandOnPath, Completion, TriuneDaemon, own_command, unit


class CannedMachine(Machine):
    """A machine that notes what it is told to run."""

    def __init__(self, root: Path, tree: Mapping[str, str], tools: CannedTools | None = None) -> None:
        super().__init__(files=plant(root, tree), tools=tools or CannedTools({}))
        object.__setattr__(self, "done", [])

    def run(self, *argv: str, timeout: float = 60, env: Mapping[str, str] | None = None) -> Result:
        self.done.append(argv)  # type: ignore[attr-defined]
        return Result(0, b"# completion\n", b"")

    def spawn(self, argv: tuple[str, ...], log: str) -> int:
        self.done.append(tuple(argv))  # type: ignore[attr-defined]
        return 4242


@contextmanager
def listening(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose name leaves room for a unix socket's path."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tdr-") as folder:
        yield Path(folder)


def quiet(mark: str, text: str) -> None:
    """A Say that says nothing."""


# --- packages


def installed(kind: str, without: frozenset[str] = frozenset(), extra: str = "") -> CannedTools:
    names = [name for name in wanted(kind, docker=True, apparmor=True, systemd=False) if name not in without]
    text = "".join(f"installed {name}\n" for name in names) + extra

    class Dpkg(CannedTools):
        def run(self, *argv: str, timeout: float = 2.0) -> Result | None:
            return Result(1, text.encode(), b"") if argv[0] == "dpkg-query" else super().run(*argv, timeout=timeout)

    return Dpkg({"dpkg-query": ""})


def test_nothing_lacks_on_a_complete_debian(tmp_path: Path) -> None:
    assert Packages(CannedMachine(tmp_path, DEBIAN_12, installed("debian"))).gap() is None


def test_what_lacks_is_installed_without_recommends(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, DEBIAN_12, installed("debian", frozenset({"lxc", "zstd"})))
    step = Packages(machine)
    assert step.gap() == "install lxc zstd"
    step.fill(quiet)
    update, install = machine.done  # type: ignore[attr-defined]
    assert update[:2] == ("apt-get", "update")
    assert "--no-install-recommends" in install
    assert install[-3:] == ("--", "lxc", "zstd")


def test_another_docker_engine_stays(tmp_path: Path) -> None:
    tools = installed("debian", frozenset({"docker.io"}), extra="installed docker-ce\n")
    assert Packages(CannedMachine(tmp_path, DEBIAN_12, tools)).gap() is None
    lacking = installed("debian", frozenset({"docker.io"}), extra="config-files docker-ce\n")
    assert Packages(CannedMachine(tmp_path / "b", DEBIAN_12, lacking)).gap() == "install docker.io"


def test_what_reaps_is_installed_where_systemd_does_not(tmp_path: Path) -> None:
    tools = installed("debian", frozenset({"tini"}))
    assert Packages(CannedMachine(tmp_path / "a", DEBIAN_12, tools)).gap() is None
    without = {path: text for path, text in DEBIAN_12.items() if not path.startswith("run/systemd/")}
    assert Packages(CannedMachine(tmp_path / "b", without, tools)).gap() == "install tini"


def test_ubuntu_has_names_of_its_own(tmp_path: Path) -> None:
    names = wanted("ubuntu", docker=True, apparmor=True)
    assert "lxc-utils" in names
    assert "lxc" not in names
    # virtiofsd left QEMU's own packages after Debian 12.
    assert Packages(CannedMachine(tmp_path, UBUNTU_24, installed("ubuntu"))).gap() == "install virtiofsd"
    complete = installed("ubuntu", extra="installed virtiofsd\n")
    assert Packages(CannedMachine(tmp_path / "b", UBUNTU_24, complete)).gap() is None


@pytest.mark.parametrize(
    ("text", "separate"),
    [
        ('ID=debian\nVERSION_ID="12"', False),
        ('ID=debian\nVERSION_ID="13"', True),
        ("ID=debian", False),
        ('ID=ubuntu\nVERSION_ID="24.04"', True),
        ('ID=ubuntu\nVERSION_ID="22.04"', False),
        ('ID=linuxmint\nID_LIKE=ubuntu\nVERSION_ID="22"', False),
    ],
)
def test_where_virtiofsd_is_a_package(text: str, separate: bool) -> None:
    assert separate_virtiofsd(text) is separate


def test_another_distribution_is_told(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {"etc/os-release": "ID=fedora\n"})
    with pytest.raises(Unsupported) as caught:
        Packages(machine).gap()
    assert caught.value.code == "distribution_unknown"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID=debian", "debian"),
        ('ID="ubuntu"', "ubuntu"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', "ubuntu"),
        ("ID=raspbian\nID_LIKE=debian", "debian"),
        ("ID=arch", None),
        ("", None),
    ],
)
def test_family(text: str, expected: str | None) -> None:
    assert family(text) == expected


@given(st.text())
def test_parsers_never_raise(text: str) -> None:
    parse_os_release(text)
    parse_installed(text)
    family(text)


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,12}", fullmatch=True), st.text("abc XYZ=.0", max_size=20)))
def test_os_release_round_trip(values: dict[str, str]) -> None:
    assert parse_os_release("\n".join(f'{key}="{value}"' for key, value in values.items())) == values


# --- accounts


def test_the_group_is_created_once(tmp_path: Path) -> None:
    assert Group(CannedMachine(tmp_path / "a", DEBIAN_12)).gap() is None
    machine = CannedMachine(tmp_path / "b", UBUNTU_24)
    step = Group(machine)
    assert step.gap() == "create it"
    step.fill(quiet)
    assert machine.done == [("groupadd", "--system", "triune")]  # type: ignore[attr-defined]


def test_root_gets_a_range_that_overlaps_nobody(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, UBUNTU_24)
    step = SubordinateIds(machine)
    assert step.gap() == "give root 1000000000 ids from 1000000 in /etc/subuid and /etc/subgid"
    step.fill(quiet)
    assert step.gap() is None
    assert machine.files.lines("/etc/subuid") == ["ubuntu:100000:65536", "root:1000000:1000000000"]


span = st.tuples(st.integers(1, 2**31), st.integers(1, 2**31)).map(lambda pair: (pair[0], pair[1]))


@given(st.lists(span, max_size=8))
def test_a_free_range_overlaps_nothing(taken: list[tuple[int, int]]) -> None:
    text = "\n".join(f"user:{start}:{count}" for start, count in taken)
    found = free_range([text, ""])
    if found is None:
        assert max(start + count for start, count in taken) > 2**32 - 2 - 2 * 65536
        return
    start, count = found
    assert count >= 65536
    assert start + count < 2**32
    assert not any(other < start + count and other + size > start for other, size in taken)


# --- daemons


def test_a_daemon_that_listens_is_left_alone(short: Path) -> None:
    machine = CannedMachine(short, {})
    step = Daemon(machine, "it", "/run/it.sock", ("it.service",), ("it", "-d"), "/var/log/it.log", forks=True)
    assert step.gap() == "start it"
    with listening(short / "run/it.sock"):
        assert step.gap() is None
        assert machine.listener("/run/it.sock") == os.getpid()


def test_systemd_starts_units_and_others_are_started_directly(short: Path) -> None:
    with listening(short / "run/docker.sock"):
        direct = CannedMachine(short, {})
        Docker(direct, "Docker", "/run/docker.sock", ("docker.service",), ("dockerd",), "/l").fill(quiet)
        assert direct.done == [("dockerd", "--live-restore")]  # type: ignore[attr-defined]
        booted = CannedMachine(short, {"run/systemd/system/.keep": ""})
        Docker(booted, "Docker", "/run/docker.sock", ("docker.service",), ("dockerd",), "/l").fill(quiet)
        assert booted.done == [("systemctl", "enable", "--now", "docker.service")]  # type: ignore[attr-defined]


def test_live_restore_is_not_set_twice(short: Path) -> None:
    machine = CannedMachine(short, {"etc/docker/daemon.json": '{"live-restore": false}'})
    with listening(short / "run/docker.sock"):
        Docker(machine, "Docker", "/run/docker.sock", ("docker.service",), ("dockerd",), "/l").fill(quiet)
    assert machine.done == [("dockerd",)]  # type: ignore[attr-defined]


def test_live_restore_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {"etc/docker/daemon.json": '{"data-root": "/srv/docker"}'})
    step = LiveRestore(machine)
    assert step.gap() is not None
    step.fill(quiet)
    assert json.loads(machine.files.text("/etc/docker/daemon.json") or "") == {
        "data-root": "/srv/docker",
        "live-restore": True,
    }
    assert step.gap() is None


def test_a_daemon_that_does_not_answer_yet_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = CannedMachine(tmp_path, {"run/docker.pid": "7\n", "proc/7/comm": "dockerd\n"})
    answers = iter([None, {"LiveRestoreEnabled": True}])
    monkeypatch.setattr(type(machine.tools), "ask", lambda *_: next(answers))
    assert LiveRestore(machine).gap() is None


@pytest.mark.parametrize(("comm", "told"), [("dockerd", True), ("sleep", False)])
def test_only_docker_itself_is_told_to_read_its_file(tmp_path: Path, comm: str, told: bool) -> None:
    # SIGHUP ends what does not expect it, and a pid file left behind may name anything.
    process = subprocess.Popen(["sleep", "30"])
    try:
        tree = {"run/docker.pid": f"{process.pid}\n", f"proc/{process.pid}/comm": f"{comm}\n"}
        LiveRestore(CannedMachine(tmp_path, tree)).fill(quiet)
        if told:
            assert process.wait(PATIENCE) == -signal.SIGHUP
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["[]", "{", '"x"'])
def test_a_broken_docker_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_config(CannedMachine(tmp_path, {"etc/docker/daemon.json": text}))
    assert caught.value.code == "bad_docker_config"


def test_waiting_ends(tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        Machine().wait(lambda: False, "it", "Look.", 0.2)
    assert (caught.value.code, caught.value.hint) == ("daemon_not_up", "Look.")


def test_a_daemon_that_dies_at_once_is_not_waited_for(tmp_path: Path) -> None:
    pid = Machine().spawn(["false"], str(tmp_path / "log"))
    with pytest.raises(Failed) as caught:
        Machine().wait(lambda: False, "it", "Read the log.", 10 * PATIENCE, pid)
    assert caught.value.message == "it ended as soon as it was started"


def test_the_age_of_a_process() -> None:
    before = time.time()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = Machine().started(child.pid)
        assert started is not None
        assert before - 2 < started < time.time() + 2
    finally:
        child.communicate(b"\n")
    assert Machine().started(child.pid) is None


def test_a_spawned_daemon_logs_in_its_own_session(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "it.log"
    code = "import os; print(os.getsid(0) == os.getpid())"
    Machine().spawn([sys.executable, "-c", code], str(log))
    Machine().wait(lambda: log.exists() and log.read_text() == "True\n", "it", "", PATIENCE)


# --- Triune itself


def test_the_command_is_linked_but_nobody_elses_replaced(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {})
    step = CommandOnPath(machine)
    assert step.gap() is not None
    step.fill(quiet)
    assert step.gap() is None
    assert machine.files.path(COMMAND).readlink() == own_command()
    machine.link(COMMAND, Path("/elsewhere/triune"))
    assert step.gap() is not None, "a link to another environment is pointed here"
    machine.files.path(COMMAND).unlink()
    machine.files.path(COMMAND).write_text("#!/bin/sh\n")
    assert step.gap() is None, "a real program of that name stays"


def test_completion_is_written_once(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {})
    step = Completion(machine)
    assert step.gap() == "write it for bash, zsh, fish"
    step.fill(quiet)
    assert step.gap() is None
    assert len(machine.done) == 3  # type: ignore[attr-defined]


def test_the_daemon_under_systemd(short: Path) -> None:
    machine = CannedMachine(short, {"run/systemd/system/.keep": ""})
    with listening(short / "run/triune/triune.sock"):
        step = TriuneDaemon(machine)
        assert step.gap() == f"write {UNIT} and start it"
        step.fill(quiet)
        assert machine.files.text(UNIT) == unit().rstrip("\n")
        assert ("systemctl", "restart", "triune.service") in machine.done  # type: ignore[attr-defined]
        assert step.gap() is None


def test_the_daemon_without_systemd(short: Path) -> None:
    machine = CannedMachine(short, {})
    step = TriuneDaemon(machine)
    assert step.gap() == "start it"
    step.fill(quiet)  # it waits itself
    assert machine.done == [(str(own_command()), "serve", "--detach")]  # type: ignore[attr-defined]


class Slow(CannedMachine):
    """systemd has started a daemon that does not answer; `shown` is what it tells of it, by the call."""

    def __init__(self, root: Path, *shown: str) -> None:
        super().__init__(root, {"run/systemd/system/.keep": ""})
        object.__setattr__(self, "shown", list(shown))

    def run(self, *argv: str, timeout: float = 60, env: Mapping[str, str] | None = None) -> Result:
        super().run(*argv)
        if argv[:2] != ("systemctl", "show"):
            return Result(0, b"", b"")
        shown = self.shown  # type: ignore[attr-defined]
        return Result(0, (shown.pop(0) if len(shown) > 1 else shown[0]).encode(), b"")


@pytest.mark.parametrize(
    "shown", ["MainPID=0\nActiveState=failed\n", "MainPID=0\nActiveState=activating\nNRestarts=3\n"]
)
def test_a_daemon_that_systemd_gave_up_is_not_waited_for(short: Path, shown: str) -> None:
    machine = Slow(short, "MainPID=7\nActiveState=active\nNRestarts=0\n", shown)
    with pytest.raises(Failed, match="has ended") as caught:
        TriuneDaemon(machine).fill(quiet)
    assert "journalctl -u triune" in caught.value.hint


def test_the_unit_keeps_instances_alive() -> None:
    lines = unit().splitlines()
    assert "KillMode=process" in lines
    assert "ExecStart=/usr/local/bin/triune serve" in lines
    sandbox = [line for line in lines if line.startswith(("Protect", "Private", "Restrict", "NoNewPriv", "MountFlags"))]
    assert sandbox == [], "system containers would inherit it"


# --- the plan


class Fixed:
    """A step with a fixed story."""

    def __init__(self, title: str, gaps: list[str | None], needed: bool = True, error: Exception | None = None) -> None:
        self.title, self.gaps, self.needed, self.error = title, gaps, needed, error
        self.filled = 0

    def gap(self) -> str | None:
        return self.gaps.pop(0) if len(self.gaps) > 1 else self.gaps[0]

    def fill(self, say: object) -> None:
        self.filled += 1
        if self.error:
            raise self.error


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("as_root")
def test_only_gaps_are_filled() -> None:
    said: list[tuple[str, str]] = []
    done, todo = Fixed("a", [None]), Fixed("b", ["x", None])
    apply([done, todo], lambda mark, text: said.append((mark, text)))
    assert (done.filled, todo.filled) == (0, 1)
    assert said == [("ok", "a"), ("do", "b: x"), ("done", "b: done")]


@pytest.mark.usefixtures("as_root")
def test_a_gap_that_stays_is_an_error() -> None:
    with pytest.raises(Failed) as caught:
        apply([Fixed("a", ["x"])], quiet)
    assert caught.value.code == "setup_incomplete"


@pytest.mark.usefixtures("as_root")
def test_what_is_not_needed_may_fail() -> None:
    said: list[str] = []
    last = Fixed("c", [None])
    broken = Fixed("b", ["x"], needed=False, error=Conflict("c", "in the way"))
    apply([broken, last], lambda mark, text: said.append(f"{mark} {text}"))
    assert said == ["do b: x", "warn b: in the way", "ok c"]


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.os, "geteuid", lambda: 1000)
    with pytest.raises(Denied) as caught:
        apply([], quiet)
    assert caught.value.hint == "Run: sudo triune setup"


def test_the_plan_leaves_a_docker_that_was_there_before_as_it_is(tmp_path: Path) -> None:
    fresh = plan(Options(machine=CannedMachine(tmp_path / "a", {})))
    there = plan(Options(machine=CannedMachine(tmp_path / "b", {}, CannedTools({"dockerd": ""}))))
    asked = plan(Options(machine=CannedMachine(tmp_path / "c", {}, CannedTools({"dockerd": ""})), live_restore=True))
    assert [any(isinstance(step, LiveRestore) for step in steps) for steps in (fresh, there, asked)] == [
        True,
        False,
        True,
    ]
    without = plan(Options(machine=CannedMachine(tmp_path / "d", {}), daemon=False))
    assert not any(isinstance(step, TriuneDaemon) for step in without)
    assert [daemon.argv for daemon in daemons(CannedMachine(tmp_path / "e", {}))] == [
        ("virtlogd", "-d"),
        ("tini", "-s", "--", "libvirtd"),
        ("dockerd",),
    ]
