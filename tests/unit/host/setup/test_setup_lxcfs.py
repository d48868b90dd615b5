"""lxcfs: started where it does not run, never restarted, and told to show CPU quotas."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.host.setup.test_setup_steps import CannedMachine, quiet

from triune.domain.errors import Failed
from triune.host.setup.lxcfs import Lxcfs, LxcfsUnit

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
