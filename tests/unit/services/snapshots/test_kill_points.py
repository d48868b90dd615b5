"""Killed at every step of every operation, and started again: nothing half-made, and the instance as before or as
asked."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.services.snapshots.rig import Rig

pytestmark = pytest.mark.heavy  # a process per step

# What runs until it is killed: prepare in peace, then one operation with a crash point.
PROGRAM = """
import sys
from pathlib import Path
from tests.unit.services.snapshots.rig import Rig
from triune.host import faults
from triune.services.snapshots import CloneRequest, SnapshotRequest

folder, action, point = sys.argv[1:]
rig = Rig(Path(folder))
rig.make("web")
rig.start("web")
if action != "snapshot":
    rig.done(rig.snapshots.create(SnapshotRequest(instance="web", name="one")))
    rig.engine.find("web").log.append("later")
    with rig.engine.changing():
        pass
faults._CRASH_AT = point
rig.done({
    "snapshot": lambda: rig.snapshots.create(SnapshotRequest(instance="web", name="one")),
    "snapshot-restore": lambda: rig.snapshots.restore("web", "one", force=True),
    "snapshot-delete": lambda: rig.snapshots.delete("web", "one"),
    "clone": lambda: rig.cloner.clone(CloneRequest(name="web", new="copy", start=True)),
}[action]())
"""

POINTS = {
    "snapshot": "intend-snapshot snapshot fake-snapshot before-keep after-keep",
    "snapshot-restore": "intend-start stop fake-stop intend-snapshot-restore restore fake-restore start fake-start",
    "snapshot-delete": "intend-snapshot delete fake-snapshot-delete",
    "clone": "intend-instance clone fake-disk fake-clone start fake-start before-keep after-keep ready",
}
ALL = [(action, point) for action, points in POINTS.items() for point in points.split()]


@pytest.mark.parametrize(("action", "point"), ALL, ids=lambda word: word)
def test_a_kill_leaves_it_as_before_or_as_asked(tmp_path: Path, action: str, point: str) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(tmp_path), action, f"{action}:{point}"]
    killed = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr or "the point was never passed"
    rig = Rig(tmp_path)
    rig.recover()
    try:
        check(rig, action, point)
        assert all(operation.state.ended for operation in rig.operations.list())
        assert not [one for one in rig.engine._instances.values() if one.half]
        assert not [one for one in rig.engine.find("web").snapshots.values() if one.get("half")]
    finally:
        rig.close()


def check(rig: Rig, action: str, point: str) -> None:
    names = [one.name for one in rig.engine.list()]
    assert rig.state("web") == "running"
    if action == "snapshot":
        assert rig.names("web") == (["one"] if point == "after-keep" else [])
    elif action == "snapshot-restore":
        undone = point in ("intend-start", "stop", "fake-stop")
        assert ("later" in rig.log("web")) == undone
        assert rig.names("web") == ["one"]
    elif action == "snapshot-delete":
        assert rig.names("web") == []
    else:
        kept = point in ("after-keep", "ready")
        assert names == (["web", "copy"] if kept else ["web"])
        assert (rig.instances.intent("copy") is not None) == kept
