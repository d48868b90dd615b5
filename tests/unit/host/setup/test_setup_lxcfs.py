"""lxcfs: started where it does not run, never restarted, and told to show CPU quotas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.unit.host.setup.test_setup_steps import CannedMachine, quiet

from triune.domain.errors import Conflict, Failed
from triune.host.run import Result
from triune.host.setup.lxcfs import Lxcfs, LxcfsOptions, LxcfsUnit
from triune.host.setup.plan import carry_out

MOUNTED = "96 27 0:50 / /var/lib/lxcfs rw - fuse.lxcfs lxcfs rw,user_id=0\n"
UPTIME = "var/lib/lxcfs/proc/uptime"


class Starting(CannedMachine):
    """Its lxcfs mounts itself as soon as it is started."""

    def spawn(self, argv: tuple[str, ...], log: str) -> int:
        self.write("/proc/self/mountinfo", MOUNTED)
        self.write(f"/{UPTIME}", "1.00 1.00")
        return super().spawn(argv, log)


def test_it_is_started_without_systemd(tmp_path: Path) -> None:
    machine = Starting(tmp_path, {"dev/fuse": "", "proc/self/mountinfo": "27 1 8:1 / / rw - ext4 /dev/sda1 rw\n"})
    step = Lxcfs(machine)
    assert step.gap() == "start it"
    step.fill(quiet)
    assert machine.done == [("/usr/bin/lxcfs", "--enable-cfs", "/var/lib/lxcfs")]  # type: ignore[attr-defined]
    assert step.gap() is None
    assert LxcfsUnit(machine).gap() is None


def test_one_that_runs_is_left_alone_and_without_fuse_there_is_none(tmp_path: Path) -> None:
    assert Lxcfs(CannedMachine(tmp_path / "a", {"dev/fuse": "", UPTIME: "1.00 1.00"})).gap() is None
    assert Lxcfs(CannedMachine(tmp_path / "b", {"proc/self/mountinfo": ""})).gap() is None


def test_what_a_killed_one_left_is_taken_away_first(tmp_path: Path) -> None:
    machine = Starting(tmp_path, {"dev/fuse": "", "proc/self/mountinfo": MOUNTED})
    step = Lxcfs(machine)
    assert step.gap() == "start it"
    step.fill(quiet)
    assert machine.done[0] == ("umount", "--lazy", "/var/lib/lxcfs")  # type: ignore[attr-defined]
    assert step.gap() is None


def test_one_that_ends_at_once_is_told(tmp_path: Path) -> None:
    step = Lxcfs(CannedMachine(tmp_path, {"dev/fuse": "", "proc/self/mountinfo": ""}))
    with pytest.raises(Failed, match="lxcfs ended as soon as it was started"):
        step.fill(quiet)


def test_systemds_unit_is_told_once(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {"run/systemd/system/.keep": ""})
    step = LxcfsUnit(machine)
    assert "lxcfs.service.d" in (step.gap() or "")
    step.fill(quiet)
    assert machine.done == [("systemctl", "daemon-reload")]  # type: ignore[attr-defined]
    assert step.gap() is None


def _old(**more: str) -> dict[str, str]:
    """A host whose lxcfs, process 77, ran before setup; process 5 is a service with the host's mounts."""
    tree = {
        "dev/fuse": "",
        UPTIME: "1.00 1.00",
        "run/lxcfs.pid": "77",
        "run/systemd/system/.keep": "",
        "proc/77/cmdline": "/usr/bin/lxcfs\0/var/lib/lxcfs\0",
        "proc/5/mountinfo": MOUNTED,
    }
    return {**tree, **more}


class Restarting(CannedMachine):
    """systemd starts its lxcfs with the options of its unit."""

    def run(self, *argv: str, timeout: float = 60, env: Mapping[str, str] | None = None) -> Result:
        if argv[1] == "restart":
            self.write("/proc/77/cmdline", "/usr/bin/lxcfs\0--enable-cfs\0/var/lib/lxcfs\0")
        return super().run(*argv)


def test_one_without_the_option_is_restarted_where_nobody_uses_it(tmp_path: Path) -> None:
    machine = Restarting(tmp_path, _old())
    step = LxcfsOptions(machine)
    assert "without --enable-cfs" in (step.gap() or "")
    step.fill(quiet)
    assert machine.done == [("systemctl", "restart", "lxcfs.service")]  # type: ignore[attr-defined]
    assert step.gap() is None


def test_one_that_containers_use_is_left_and_told(tmp_path: Path) -> None:
    inside = "99 27 0:50 /proc/meminfo /proc/meminfo rw - fuse.lxcfs lxcfs rw,user_id=0\n"
    machine = CannedMachine(tmp_path, _old(**{"proc/6/mountinfo": inside}))
    said: list[str] = []
    carry_out([LxcfsOptions(machine)], lambda mark, text: said.append(f"{mark} {text}"), "")
    assert machine.done == []  # type: ignore[attr-defined]
    assert said[-1].startswith("warn")
    assert "stop the containers, then run triune setup again" in said[-1]
    with pytest.raises(Conflict):
        LxcfsOptions(machine).fill(quiet)


@pytest.mark.parametrize(
    ("pid", "argv"),
    [("", ""), ("77", "/usr/bin/lxcfs\0--enable-cfs\0/var/lib/lxcfs\0"), ("77", "/bin/sleep\0"), ("x", "")],
)
def test_one_that_has_it_or_is_none(tmp_path: Path, pid: str, argv: str) -> None:
    tree = _old(**{"run/lxcfs.pid": pid, "proc/77/cmdline": argv})
    assert LxcfsOptions(CannedMachine(tmp_path, tree)).gap() is None
