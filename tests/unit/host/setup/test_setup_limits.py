"""Kernel limits: only what is too low is raised, for this boot and the next."""

from __future__ import annotations

from pathlib import Path

from triune.host.probe.view import HostFiles
from triune.host.setup.limits import KernelLimits
from triune.host.setup.machine import Machine


def step(root: Path, **values: int) -> KernelLimits:
    for key, value in values.items():
        path = root / "proc/sys" / key.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return KernelLimits(Machine(files=HostFiles(root)))


def test_what_is_too_low_is_raised_and_kept(tmp_path: Path) -> None:
    limits = step(tmp_path, fs__inotify__max_user_instances=128, kernel__keys__maxkeys=5000)
    assert limits.gap() == "raise fs.inotify.max_user_instances to 1024"
    limits.fill(lambda *_: None)
    assert limits.gap() is None
    assert (tmp_path / "proc/sys/fs/inotify/max_user_instances").read_text() == "1024\n"
    assert (tmp_path / "proc/sys/kernel/keys/maxkeys").read_text() == "5000\n"
    written = (tmp_path / "etc/sysctl.d/60-triune.conf").read_text()
    assert "fs.inotify.max_user_instances = 1024" in written.splitlines()
    assert "maxkeys" not in written


def test_what_was_written_before_stays(tmp_path: Path) -> None:
    step(tmp_path, fs__inotify__max_user_instances=128).fill(lambda *_: None)
    step(tmp_path, kernel__keys__maxkeys=200).fill(lambda *_: None)
    written = (tmp_path / "etc/sysctl.d/60-triune.conf").read_text().splitlines()
    assert written[1:] == ["fs.inotify.max_user_instances = 1024", "kernel.keys.maxkeys = 2000"]


def test_a_host_that_allows_enough_is_left_alone(tmp_path: Path) -> None:
    assert step(tmp_path, fs__inotify__max_user_instances=8192).gap() is None
