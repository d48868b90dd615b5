"""The steps that make a Docker daemon without root, on canned hosts."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from tests.trees import DEBIAN_12, CannedTools
from tests.unit.host.setup.test_setup_steps import CannedMachine, quiet

from triune.domain.errors import Conflict, Unsupported
from triune.host.rootless import PLACE
from triune.host.setup import rootless as module
from triune.host.setup.plan import Options, plan
from triune.host.setup.rootless import (
    RootlessDaemon,
    RootlessGone,
    RootlessPackages,
    RootlessUser,
    direct,
    script,
    unit,
)

SCRIPT = "/usr/share/docker.io/contrib/dockerd-rootless.sh"
FREE = -(-1_001_000_000 // 65536) * 65536  # the next whole one


@pytest.fixture(autouse=True)
def known_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests stands for the user that setup would have made."""
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(module.pwd, "getpwnam", lambda name: me)


def test_it_is_made_only_where_it_is_asked_for_and_kept_afterwards(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, DEBIAN_12)

    def steps(*, rootless: bool) -> list[type]:
        return [type(step) for step in plan(Options(machine=machine, rootless=rootless))]

    assert RootlessDaemon not in steps(rootless=False)
    asked = steps(rootless=True)
    assert asked.index(RootlessPackages) < asked.index(RootlessUser) < asked.index(RootlessDaemon)
    machine.write(str(PLACE.mark), "made")
    assert steps(rootless=False) == asked


def test_packages_are_known_by_their_programs(tmp_path: Path) -> None:
    step = RootlessPackages(CannedMachine(tmp_path, {}))
    assert step.gap() == "install rootlesskit slirp4netns uidmap"


def test_the_user_gets_a_range_that_nobody_has(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {})
    machine.write("/etc/passwd", f"{PLACE.user}:x:0:0::/:/x\n")
    machine.write("/etc/subuid", "root:1000000:1000000000\n")
    step = RootlessUser(machine)
    assert step.gap() == "give it 65536 ids in /etc/subuid and /etc/subgid"
    step.fill(quiet)
    assert machine.files.lines("/etc/subuid") == ["root:1000000:1000000000", f"{PLACE.user}:{FREE}:65536"]
    assert machine.files.lines("/etc/subgid") == [f"{PLACE.user}:{FREE}:65536"]
    assert step.gap() is None
    assert machine.files.path(str(PLACE.data)).stat().st_mode & 0o777 == 0o700


def test_a_missing_user_is_made(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {})
    step = RootlessUser(machine)
    assert step.gap() == "create it, with 65536 subordinate ids"
    step.fill(quiet)
    assert machine.done[0][:3] == ("useradd", "--system", "--user-group")  # type: ignore[attr-defined]
    assert machine.done[0][-1] == PLACE.user  # type: ignore[attr-defined]


def test_the_script_is_dockers_own(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path / "a", {})
    machine.write(SCRIPT, "#!/bin/sh\n")
    assert script(machine) == SCRIPT
    with pytest.raises(Unsupported) as raised:
        script(CannedMachine(tmp_path / "b", {}))
    assert "docker-ce-rootless-extras" in raised.value.hint


def test_both_ways_to_start_it_say_the_same() -> None:
    argv = direct(SCRIPT)
    assert argv[:3] == ("setpriv", "--reuid=triune-docker", "--regid=triune-docker")
    lines = unit(SCRIPT).splitlines()
    command = argv[argv.index(SCRIPT) :]
    assert f"ExecStart={' '.join(command)}" in lines
    assert "User=triune-docker" in lines
    assert {line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")} <= set(argv)
    for option in ("--bridge=none", "--iptables=false", "--ip-forward=false"):
        assert option in command


def test_it_does_not_go_while_somebody_has_containers_there(tmp_path: Path) -> None:
    class Holding(CannedTools):
        def ask(self, socket_path: str, path: str) -> object:
            return [{"Names": ["/theirs"]}]

    machine = CannedMachine(tmp_path, {}, Holding({}))
    machine.write(PLACE.unit, unit(SCRIPT))
    step = RootlessGone(machine)
    assert step.gap() == f"stop it and remove {PLACE.unit}"
    with pytest.raises(Conflict, match="theirs"):
        step.fill(quiet)
    assert machine.files.exists(PLACE.unit)
