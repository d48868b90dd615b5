"""Control groups of our own making, on canned trees and with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import until

from triune.domain.errors import Failed
from triune.host import made_groups
from triune.host.cgroup import Hierarchies


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child, both waiting."""
    code = "import subprocess, sys; subprocess.run(['cat'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        yield process
        process.communicate()


def test_a_family_is_a_process_and_all_that_came_of_it(parent: subprocess.Popen[bytes]) -> None:
    until(lambda: len(made_groups.family(parent.pid)) > 1, "it has no child")
    found = made_groups.family(parent.pid)
    assert found[0] == parent.pid
    assert made_groups.parent_of(found[1]) == parent.pid
    assert parent.pid in made_groups.family(os.getpid())


def test_one_that_is_gone_is_told() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    for call in (made_groups.family, made_groups.parent_of):
        with pytest.raises(ProcessLookupError):
            call(process.pid)


def test_a_group_is_made_in_each_hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_groups, "_SECONDS", 0.0)
    v1, v2 = tmp_path / "cpuset", tmp_path / "unified"
    for folder in (v1, v2):
        folder.mkdir()
    (v1 / "cpuset.cpus").write_text("0-3\n")
    (v2 / "cgroup.controllers").write_text("memory\n")
    mounted = Hierarchies({"cpuset": v1, "devices": tmp_path / "devices"}, v2, frozenset({"memory"}))
    # No kernel is behind these folders, so nothing is ever held by them.
    with pytest.raises(Failed, match="can't be held"):
        made_groups.hold("abc", os.getpid(), os.getpid(), mounted)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*/*/cgroup.procs")) == [
        Path("cpuset/triune-rootless/abc/cgroup.procs"),
        Path("unified/triune-rootless/abc/cgroup.procs"),
    ]
    assert (v2 / "cgroup.subtree_control").read_text().startswith("+")
    assert not (tmp_path / "devices").exists()


def test_groups_in_which_nothing_runs_go(tmp_path: Path) -> None:
    used = tmp_path / made_groups.PARENT / "used"
    used.mkdir(parents=True)
    (used / "tasks").touch()
    (tmp_path / made_groups.PARENT / "empty").mkdir()
    made_groups.sweep(Hierarchies({"memory": tmp_path}, None, frozenset()))
    assert [path.name for path in (tmp_path / made_groups.PARENT).iterdir()] == ["used"]
