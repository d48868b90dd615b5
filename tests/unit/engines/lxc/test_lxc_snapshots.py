"""Snapshots and clones of containers: their files, and configurations put together of then and now."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engines.lxc.test_lxc_spec import CARD, MARK

from triune.domain.errors import Failed, NotFound
from triune.domain.operation import Silent
from triune.domain.pool import PoolDriver, PoolPlace
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.lxc import mark as marks
from triune.engines.lxc import points, restoring, seed, spec
from triune.engines.lxc import snapshots as module
from triune.host import beneath
from triune.host.idmap import IdRange

POOL = PoolPlace(name="fast", driver=PoolDriver.BTRFS, path=Path("/pools/fast"))
times = st.datetimes(timezones=st.just(UTC))
snapshots = st.builds(
    Snapshot,
    name=st.text(),
    created=times,
    consistency=st.sampled_from(Consistency),
    memory=st.booleans(),
    size=st.none() | st.integers(0),
    parent=st.none() | st.text(),
    expires=st.none() | times,
    schedule=st.text(),
    comment=st.text(),
)


@given(snapshots)
def test_a_snapshot_is_read_as_it_was_written(snapshot: Snapshot) -> None:
    assert points.parse(points.dump(snapshot)) == snapshot


@given(st.binary())
def test_what_is_no_snapshot_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        points.parse(data)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_any_json_is_a_snapshot_or_an_error(data: object) -> None:
    import json

    with pytest.raises(ValueError):
        points.parse(json.dumps({"version": 1, "name": "a", "created": data}).encode())


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", ".hidden"])
def test_a_name_never_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        points.folder_of(tmp_path, name)


def test_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "snapshots/s1").mkdir(parents=True)
    assert points.read_all(tmp_path) == []
    (tmp_path / "snapshots/s1/snapshot.json").write_text("{")
    with pytest.raises(Failed) as broken:
        points.read_all(tmp_path)
    assert "s1" in broken.value.message + broken.value.hint
    points.remove(tmp_path, "s1")
    assert points.read_all(tmp_path) == []


def test_one_that_a_power_cut_caught_is_refused(tmp_path: Path) -> None:
    snapshot = Snapshot(name="s1", created=MARK.created, consistency=Consistency.STOPPED)
    points.fresh_folder(tmp_path, "s1").mkdir(parents=True)
    points.keep(tmp_path, snapshot, b"lxc.uts.name = web\n", MARK)
    folder = points.require(tmp_path, "s1", "web")
    assert points.read_all(tmp_path) == [snapshot]
    assert (folder / "config").read_bytes() == b"lxc.uts.name = web\n" and marks.read(folder) == MARK
    assert not (folder / "unwritten").exists()
    (folder / "unwritten").write_text("another boot")
    with pytest.raises(Failed) as cut:
        points.require(tmp_path, "s1", "web")
    assert cut.value.code == "snapshot_unwritten"
    assert points.read_all(tmp_path) == [snapshot]
    points.remove(tmp_path, "s1")


@pytest.mark.parametrize("pool", [None, POOL, replace(POOL, driver=PoolDriver.DIR)])
def test_a_mark_keeps_its_pool(pool: PoolPlace | None) -> None:
    mark = replace(MARK, pool=pool, whole=pool is not None, disk=None if pool is None else 1 << 30)
    assert marks.parse(marks.dump(mark)) == mark


def test_an_older_mark_has_layers_and_no_pool() -> None:
    import json

    data = json.loads(marks.dump(MARK))
    for key in ("pool", "whole", "disk"):
        del data[key]
    assert marks.parse(json.dumps(data).encode()) == MARK


def test_where_its_data_is() -> None:
    folder = Path("/var/lib/lxc/web")
    assert MARK.own(folder) == folder / "upper"
    assert replace(MARK, whole=True).own(folder) == folder / "root"
    assert replace(MARK, pool=POOL, whole=True).own(folder) == POOL.path / "instances/lxc/web/root"
    assert replace(MARK, whole=True).writable(folder) == folder / "root"
    assert MARK.writable(folder) == folder / "rootfs"


def test_a_restored_configuration_has_the_settings_of_then_and_the_identity_of_now() -> None:
    then = spec.serialise(
        [
            ("lxc.uts.name", "old"),
            ("lxc.rootfs.path", "dir:/l/old/rootfs"),
            ("lxc.cgroup2.memory.max", "1"),
            ("lxc.net.0.hwaddr", "02:00:00:00:00:01"),
            ("lxc.net.1.hwaddr", "02:00:00:00:00:02"),
            ("lxc.mount.entry", "/gone srv none bind 0 0"),
            ("lxc.environment", "A=then"),
        ]
    )
    now = spec.serialise(
        [
            ("lxc.uts.name", "new"),
            ("lxc.rootfs.path", "dir:/l/new/rootfs"),
            ("lxc.net.0.hwaddr", "02:00:00:00:00:09"),
            ("lxc.mount.entry", "/here srv none bind 0 0"),
            ("lxc.environment", "B=now"),
        ]
    )
    assert dict(spec.parse(restoring.merged(then, now))) == {
        "lxc.uts.name": "new",
        "lxc.rootfs.path": "dir:/l/new/rootfs",
        "lxc.cgroup2.memory.max": "1",
        "lxc.net.0.hwaddr": "02:00:00:00:00:09",
        "lxc.mount.entry": "/here srv none bind 0 0",
        "lxc.environment": "A=then",
    }


def test_a_clone_has_cards_and_ids_of_its_own() -> None:
    text = spec.serialise([("lxc.idmap", "u 0 1 2"), ("lxc.net.0.hwaddr", "x"), ("lxc.environment", "A=1")])
    items = [*spec.id_items(IdRange(7, 9)), *spec.card_items(0, CARD)]
    found = list(spec.parse(restoring.readdressed(text, items)))
    assert found[0] == ("lxc.environment", "A=1")
    assert [value for key, value in found if key == "lxc.idmap"] == ["u 0 7 9", "g 0 7 9"]
    assert ("lxc.net.0.hwaddr", CARD.mac) in found and ("lxc.net.0.hwaddr", "x") not in found


def make_tree(top: Path, name: str) -> None:
    for folder in ("etc/ssh", "usr/lib/systemd", "usr/bin", "var/lib/systemd", "var/lib/cloud/seed/nocloud"):
        (top / folder).mkdir(parents=True)
    for program in ("usr/lib/systemd/systemd", "usr/lib/systemd/systemd-networkd", "usr/bin/ssh-keygen"):
        (top / program).touch()
    (top / "etc/hostname").write_text(f"{name}\n")
    (top / "etc/hosts").write_text(seed.hosts(name, MARK.cards) + "10.0.0.1 mine\n")
    (top / "etc/resolv.conf").write_bytes(seed.resolver(MARK.cards))
    (top / "etc/machine-id").write_text("ab" * 16 + "\n")
    (top / "etc/ssh/ssh_host_rsa_key").write_text("secret")
    (top / "var/lib/systemd/random-seed").write_text("drawn")
    (top / "var/lib/cloud/seed/nocloud/meta-data").write_text("{}")
    (top / "var/lib/cloud/seed/nocloud/user-data").write_text("#cloud-config\npackages: [vim]\n")


def test_a_copy_becomes_itself_and_keeps_what_its_users_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beneath.Root, "_own", lambda *_: None)
    monkeypatch.setattr(beneath.os, "fchown", lambda *_: None)
    make_tree(tmp_path, "old")
    card = replace(CARD, address="10.87.0.9", gateway="10.87.0.2")
    new = replace(MARK, machine_id="cd" * 16, cards=(card,))
    seed.reseed(tmp_path, "new", "old", MARK, new)
    assert (tmp_path / "etc/hostname").read_text() == "new\n"
    assert (tmp_path / "etc/hosts").read_text() == seed.hosts("new", new.cards) + "10.0.0.1 mine\n"
    assert (tmp_path / "etc/resolv.conf").read_bytes() == seed.resolver(new.cards)
    assert (tmp_path / "etc/machine-id").read_text() == "cd" * 16 + "\n"
    assert not (tmp_path / "etc/ssh/ssh_host_rsa_key").exists()
    assert not (tmp_path / "var/lib/systemd/random-seed").exists()
    assert (tmp_path / "etc/systemd/system/multi-user.target.wants/triune-ssh-host-keys.service").is_symlink()
    assert "10.87.0.9/24" in (tmp_path / "etc/systemd/network/05-triune-eth0.network").read_text()
    assert "cd" * 16 in (tmp_path / "var/lib/cloud/seed/nocloud/meta-data").read_text()
    assert (tmp_path / "var/lib/cloud/seed/nocloud/user-data").read_text() == "#cloud-config\npackages: [vim]\n"


def test_a_resolver_of_the_users_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beneath.Root, "_own", lambda *_: None)
    monkeypatch.setattr(beneath.os, "fchown", lambda *_: None)
    make_tree(tmp_path, "old")
    (tmp_path / "etc/resolv.conf").write_text("nameserver 9.9.9.9\n")
    seed.readdress(tmp_path, "new", "old", MARK, MARK)
    assert (tmp_path / "etc/resolv.conf").read_text() == "nameserver 9.9.9.9\n"
    assert (tmp_path / "etc/ssh/ssh_host_rsa_key").exists()
    assert (tmp_path / "etc/hostname").read_text() == "new\n"


def test_a_restore_decided_before_meets_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_folder: Path, _mark: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    client: Any = object()
    monkeypatch.setattr(module, "managed", lambda _client, _name: (tmp_path, MARK))
    monkeypatch.setattr(module, "require_stopped", lambda _client, _name: None)
    monkeypatch.setattr(points, "require", lambda _data, _snapshot, _name: tmp_path)
    monkeypatch.setattr(restoring, "settle", full)
    with pytest.raises(Failed) as caught:
        module.LxcSnapshots(client).restore("one", "s1", Silent())
    assert caught.value.code == "no_space"
