"""An engine as what is measured: what it asks the daemon for, for each form of storage and way to be reached."""

from __future__ import annotations

from typing import Any

import pytest

from triune.cli import bench_instance
from triune.cli.bench_instance import InstanceSubject
from triune.domain.errors import Invalid, Unsupported
from triune.services.benchmarks import memory
from triune.services.benchmarks.subject import HOST, NAT


class Daemon:
    """A client whose launches are kept, and fail as `refuses` says."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.instances = self
        self.operations = self
        self.volumes = Volumes()
        self.launched: list[dict[str, Any]] = []
        self.removed: list[str] = []
        self.refuses = refuses

    def launch(self, **request: Any) -> dict[str, Any]:
        self.launched.append(request)
        if self.refuses:
            raise self.refuses
        return {"id": "7"}

    def wait(self, operation: str, timeout: float) -> dict[str, Any]:
        return {"id": operation, "state": "done", "result": {"addresses": ["10.9.0.7"]}}

    def remove(self, name: str, *, force: bool) -> dict[str, Any]:
        self.removed.append(name)
        return {"id": "8"}


class Volumes:
    """Those that were made."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}

    def create(self, name: str, **request: Any) -> dict[str, Any]:
        self.made[name] = request
        return {"id": "6"}

    def remove(self, name: str) -> dict[str, Any]:
        del self.made[name]
        return {"id": "9"}


def subject(daemon: Any, *, outside: str = "127.0.0.1") -> InstanceSubject:
    engine = {"name": "alpha", "title": "Alpha machines"}
    size = {"cpus": 1, "memory": 2**28}
    return InstanceSubject(
        daemon,
        engine,
        prefix="bench-1",
        image="debian/12",
        size=size,
        service={},
        patience=5,
        outside=outside,
        ports=(80, 81),
    )


def test_a_disk_by_virtio_scsi_is_that_by_virtio_blk_on_another_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon()
    one = subject(daemon)
    monkeypatch.setattr(one, "_run_in", lambda *_: type("Said", (), {"stdout": "/dev/sdb\n"}))
    assert one.stored("scsi").path == "/dev/sdb"
    one.stored("raw")
    scsi, raw = daemon.launched
    assert (scsi["settings"], raw["settings"]) == ({"bus": "scsi"}, {})
    made = daemon.volumes.made
    assert made["bench-1-alpha-scsi-v"] == made["bench-1-alpha-raw-v"]
    one.close()
    assert daemon.removed == ["bench-1-alpha-scsi", "bench-1-alpha-raw"]
    assert made == {}


def test_an_engine_without_such_a_setting_can_not_have_the_form_and_is_asked_once() -> None:
    daemon = Daemon(Invalid("unknown_setting", "there is no setting 'bus'", hint=""))
    one = subject(daemon)
    for _ in range(2):
        with pytest.raises(Unsupported) as error:
            one.stored("scsi")
        assert "Alpha machines: no disks" in error.value.message
    assert len(daemon.launched) == 1
    one.close()
    assert daemon.volumes.made == {}


def test_behind_its_bridge_ports_are_published_where_only_the_clients_come_from() -> None:
    daemon = Daemon()
    found = subject(daemon).reached(NAT)
    assert (found.inside, found.address, set(found.ports)) == ("10.9.0.7", "127.0.0.1", {80, 81})
    assert daemon.launched[0]["publish"] == [f"127.0.0.1:{port}:{inside}" for inside, port in found.ports.items()]
    assert len(set(found.ports.values())) == 2


def test_on_the_hosts_network_servers_are_where_they_listen() -> None:
    daemon = Daemon()
    one = subject(daemon)
    found = one.reached(HOST)
    assert (found.inside, found.address, found.ports) == ("127.0.0.1", "127.0.0.1", {})
    assert daemon.launched[0]["network"] == "host"
    assert one.reached(HOST) is found
    one.close()
    assert daemon.removed == ["bench-1-alpha-host"]


def test_without_a_network_outside_nothing_is_launched() -> None:
    daemon = Daemon()
    with pytest.raises(Unsupported):
        subject(daemon, outside="").reached(NAT)
    assert daemon.launched == []


def test_one_is_weighed_before_many_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon()
    monkeypatch.setattr(daemon, "host", lambda: {"memory_available_bytes": 10 * 2**30}, raising=False)
    monkeypatch.setattr(bench_instance, "_SETTLE_S", 0)
    monkeypatch.setattr(memory, "paid", lambda names, _before: memory.Paid(pss=len(names) * 500 * 2**20, kernel=0))
    one = subject(daemon)
    with pytest.raises(Unsupported) as caught:
        one.crowd(50)
    assert caught.value.code == "no_room"
    assert len(daemon.launched) == 1 and daemon.removed == [daemon.launched[0]["name"]]
    assert one.crowd(3)["memory"] == 500
    assert len(daemon.launched) == 4
