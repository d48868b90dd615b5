"""The engine that the daemon chooses: what was measured on this host counts, and never fails a launch."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.house import House
from tests.unit.services.benchmarks.fakes import result
from triune.services.benchmarks.results import FOLDER, write
from triune.services.benchmarks.subject import EMULATED

_HERE = "measured here: run abc123"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def _keep(house: House, name: str, hostname: str = platform.node(), **changes: Any) -> None:
    """A result: 9 MiB in a system container, 1 MiB in an emulated machine."""
    data = result({"memory.idle": {"lxc": [9, 9, 9, 9], "kvm": [1, 1, 1, 1]}})
    data["host"]["hostname"] = hostname
    for subject in data["subjects"]:
        subject["label"] = EMULATED if subject["name"] == "kvm" else ""
    write(house.settings.data / FOLDER / name, {**data, **changes})


def _chosen(house: House, name: str) -> str:
    asked = {"name": name, "image": "debian/12", "memory": "128MiB", "network": None}
    operation = house.client.instances.launch(**asked)
    return str(house.client.operations.result(operation["id"])["chosen"])


def test_a_launch_counts_what_was_measured_here(house: House) -> None:
    assert "measured" not in _chosen(house, "before")
    _keep(house, "20260101-000000-quick-a.json")
    why = _chosen(house, "after")
    assert why.startswith("lxc: an idle one takes 9.0 MiB on this host, of 128 MiB asked for")
    assert _HERE in why
    assert "1.0 MiB" not in why  # it was emulated


def test_results_that_cannot_be_used_never_fail_it(house: House) -> None:
    _keep(house, "20260101-000000-quick-a.json", hostname="another")
    _keep(house, "20260102-000000-quick-b.json", version=99)
    _keep(house, "20260103-000000-quick-c.json", started=10**400)
    for number, content in enumerate((b"", b"{", b"[" * 100_000, b"\xff", json.dumps({"schema": 1}).encode())):
        (house.settings.data / FOLDER / f"20260104-00000{number}-quick-d.json").write_bytes(content)
    assert "measured" not in _chosen(house, "one")


def test_what_nobody_thought_of_never_fails_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("triune.services.benchmarks.measured.measured", broken)
    assert "measured" not in _chosen(house, "two")
