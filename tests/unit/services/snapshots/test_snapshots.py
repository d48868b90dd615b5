from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.services.snapshots.rig import START, Rig, broken

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, Unsupported
from triune.services.snapshots import SnapshotRequest


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def take(rig: Rig, instance: str = "web", name: str | None = None, **more: object) -> str:
    result = rig.done(rig.snapshots.create(SnapshotRequest(instance=instance, name=name, **more)))  # type: ignore[arg-type]
    return str(result["name"])


def test_a_snapshot_brings_back_what_was(rig: Rig) -> None:
    rig.make("web")
    rig.start("web")
    before = rig.log("web")
    take(rig, name="one", comment="before the change")
    rig.engine.find("web").log.append("changed")
    rig.done(rig.instances.stop("web", timeout=1, force=True))
    rig.done(rig.snapshots.restore("web", "one", force=False))
    assert rig.log("web") == before
    assert rig.state("web") == "stopped"
    (kept,) = rig.snapshots.list("web")
    assert (kept.name, kept.comment, kept.created, kept.memory) == ("one", "before the change", START, False)


def test_names_are_made_of_the_time_and_never_meet(rig: Rig) -> None:
    rig.make("web")
    assert [take(rig), take(rig), take(rig)] == [
        "snap-20260301-120000",
        "snap-20260301-120000-2",
        "snap-20260301-120000-3",
    ]


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a/b", "../x", "a..b", "a b", "a\n", "x" * 64, "\u00e9", ".hidden", "@"]
)
def test_bad_names_are_refused(rig: Rig, name: str) -> None:
    rig.make("web")
    with pytest.raises(Invalid) as caught:
        rig.snapshots.create(SnapshotRequest(instance="web", name=name))
    assert caught.value.code == "bad_name"
    assert rig.names("web") == []


@pytest.mark.parametrize("comment", ["two\nlines", "\x1b[31m", "x" * 1001])
def test_bad_comments_are_refused(rig: Rig, comment: str) -> None:
    rig.make("web")
    with pytest.raises(Invalid):
        rig.snapshots.create(SnapshotRequest(instance="web", comment=comment))


def test_what_is_there_or_not_there_is_said_at_once(rig: Rig) -> None:
    rig.make("web")
    take(rig, name="one")
    with pytest.raises(Conflict) as exists:
        rig.snapshots.create(SnapshotRequest(instance="web", name="one"))
    assert exists.value.code == "snapshot_exists"
    for call in (
        lambda: rig.snapshots.restore("web", "ome", force=False),
        lambda: rig.snapshots.delete("web", "ome"),
        lambda: rig.snapshots.get("web", "ome"),
    ):
        with pytest.raises(NotFound) as missing:
            call()
        assert missing.value.code == "snapshot_not_found"
        assert "'one'" in missing.value.hint
    with pytest.raises(NotFound) as nobody:
        rig.snapshots.list("wep")
    assert nobody.value.code == "instance_not_found"


def test_a_running_instance_is_not_put_back_unless_forced(rig: Rig) -> None:
    rig.make("web")
    rig.start("web")
    take(rig, name="one")
    with pytest.raises(Conflict) as caught:
        rig.snapshots.restore("web", "one", force=False)
    assert caught.value.code == "instance_running"
    rig.engine.find("web").log.append("changed")
    result = rig.done(rig.snapshots.restore("web", "one", force=True))
    assert result["state"] == "running"
    assert "changed" not in rig.log("web")


def test_a_failed_restore_leaves_it_running_as_it_was(rig: Rig) -> None:
    rig.make("web")
    rig.start("web")
    take(rig, name="one")
    rig.engine.find("web").log.append("kept")
    rig.engine.failures["fake-restore"] = broken("restore")
    with pytest.raises(Failed):
        rig.done(rig.snapshots.restore("web", "one", force=True))
    assert rig.state("web") == "running"
    assert "kept" in rig.log("web")


def test_one_with_memory_ends_running(rig: Rig) -> None:
    rig.make("web")
    with pytest.raises(Conflict) as caught:
        rig.snapshots.create(SnapshotRequest(instance="web", memory=True))
    assert caught.value.code == "instance_not_running"
    rig.start("web")
    take(rig, name="live", memory=True)
    rig.done(rig.instances.stop("web", timeout=1, force=True))
    assert rig.done(rig.snapshots.restore("web", "live", force=False))["state"] == "running"


def test_memory_that_cannot_be_kept_says_why(tmp_path: Path) -> None:
    rig = Rig(tmp_path, missing={"snapshots.memory": "criu is not installed"})
    rig.make("web")
    rig.start("web")
    with pytest.raises(Unsupported, match="criu is not installed") as caught:
        rig.snapshots.create(SnapshotRequest(instance="web", memory=True))
    assert caught.value.exit_code == 6
    rig.close()


def test_an_engine_without_snapshots_says_why(tmp_path: Path) -> None:
    rig = Rig(tmp_path, missing={"snapshots": "no tool for it"})
    rig.make("web")
    with pytest.raises(Unsupported, match="no tool for it"):
        rig.snapshots.list("web")
    rig.close()


def test_one_that_a_clone_stands_on_stays(rig: Rig) -> None:
    from triune.services.snapshots import CloneRequest

    rig.make("web")
    take(rig, name="one")
    rig.done(rig.cloner.clone(CloneRequest(name="web", new="copy", snapshot="one")))
    with pytest.raises(Conflict) as caught:
        rig.done(rig.snapshots.delete("web", "one"))
    assert caught.value.code == "snapshot_in_use"
    assert rig.names("web") == ["one"]
    rig.engine.delete("copy")
    rig.done(rig.snapshots.delete("web", "one"))
    assert rig.names("web") == []


def test_a_failure_in_the_middle_leaves_nothing(rig: Rig) -> None:
    rig.make("web")
    rig.engine.failures["fake-snapshot"] = broken("snapshot")
    with pytest.raises(Failed):
        take(rig, name="one")
    assert rig.engine.find("web").snapshots == {}
    del rig.engine.failures["fake-snapshot"]
    assert take(rig, name="one") == "one"


def test_expired_ones_go(rig: Rig) -> None:
    rig.make("web")
    take(rig, name="short", expires=START + timedelta(hours=1))
    take(rig, name="long", expires=START + timedelta(days=7))
    take(rig, name="ever")
    with pytest.raises(Invalid):
        rig.snapshots.create(SnapshotRequest(instance="web", expires=START))
    rig.snapshots.expire()
    assert rig.names("web") == ["short", "long", "ever"]
    rig.later(hours=2)
    settle(rig)
    assert rig.names("web") == ["long", "ever"]


def test_expiry_follows_a_new_name_and_forgets_what_is_gone(rig: Rig) -> None:
    rig.make("web")
    rig.make("old")
    for name in ("web", "old"):
        take(rig, name, "one", expires=START + timedelta(hours=1))
    rig.done(rig.instances.rename("web", "www"))
    rig.done(rig.instances.remove("old", force=True, adopted=False))
    rig.make("old")
    take(rig, "old", "one")
    rig.later(hours=2)
    settle(rig)
    assert rig.names("www") == []
    assert rig.names("old") == ["one"]


def test_an_expired_one_that_is_needed_is_tried_again_later(rig: Rig) -> None:
    from triune.services.snapshots import CloneRequest

    rig.make("web")
    take(rig, name="one", expires=START + timedelta(hours=1))
    rig.done(rig.cloner.clone(CloneRequest(name="web", new="copy", snapshot="one")))
    rig.later(hours=1)
    settle(rig)
    tried = len(rig.operations.list())
    settle(rig)
    assert len(rig.operations.list()) == tried, "not again each minute"
    rig.engine.delete("copy")
    rig.later(hours=1)
    settle(rig)
    assert rig.names("web") == []


def settle(rig: Rig) -> None:
    rig.snapshots.expire()
    for operation in rig.operations.list(running=True):
        rig.operations.wait(operation.id, PATIENCE)


def test_a_busy_instance_is_left_alone(rig: Rig) -> None:
    rig.make("web")
    rig.engine.latency = 0.05
    first = rig.snapshots.create(SnapshotRequest(instance="web", name="one"))
    with pytest.raises(Conflict) as caught:
        rig.snapshots.create(SnapshotRequest(instance="web", name="two"))
    assert caught.value.code == "busy"
    rig.done(first)
