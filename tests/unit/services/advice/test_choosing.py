"""The engine of a launch that names none."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from triune.domain.instance import InstanceSpec, VolumeMount
from triune.engines.base import Engine
from triune.engines.fake.engine import FakeEngine
from triune.services.advice.choosing import choose, workload


@pytest.fixture
def engines(tmp_path: Path) -> list[Engine]:
    return [FakeEngine(name, path=tmp_path / name) for name in ("docker", "lxc", "kvm")]


def spec(**more: object) -> InstanceSpec:
    return InstanceSpec(name="web", image="debian/12", engine="auto", **more)  # type: ignore[arg-type]


def chosen(engines: list[Engine], *, user_data: bool = False, **more: object) -> tuple[str, str]:
    engine, why = choose(spec(**more), engines, user_data=user_data)
    return engine.name, why


def test_between_equals_the_order_decides(engines: list[Engine]) -> None:
    assert chosen(engines)[0] == "docker"
    assert chosen(engines[::-1])[0] == "lxc"  # a virtual machine begins lower
    assert chosen(engines)[1] == "docker: nothing that was asked for speaks against it"


def test_what_the_launch_says_decides(engines: list[Engine]) -> None:
    name, why = chosen(engines, user_data=True)  # cloud-init takes a whole system
    assert name == "lxc"
    assert "systemd" in why
    assert why.endswith("before the next")


def test_the_only_one_that_can(engines: list[Engine]) -> None:
    assert chosen(engines[2:]) == ("kvm", "kvm: the only engine here that can run debian/12")


def test_where_the_rules_bar_all_the_engine_has_the_word(engines: list[Engine]) -> None:
    assert chosen(engines, memory=2**60) == ("docker", "docker: the first that can run debian/12")


def test_what_a_launch_says_as_a_workload() -> None:
    socket = VolumeMount(source="/var/run/docker.sock", target="/s")
    found = workload(
        spec(cpus=2, memory=2**30, volumes=(socket, VolumeMount(source="data", target="/d"))),
        ["kvm"],
        user_data=False,
    )
    assert found["host_access"] == ("docker-socket",)
    assert (found["cpus"], found["memory"], found["engines"]) == (2, 2**30, ("kvm",))


def test_what_the_rules_do_not_know_is_not_taken_unasked(engines: list[Engine], tmp_path: Path) -> None:
    unknown = FakeEngine("rootless", path=tmp_path / "rootless")
    assert chosen([unknown, *engines])[0] == "docker"
    assert chosen([unknown])[0] == "rootless"  # alone it can do it


def _benched(asked: list[Collection[str]], **idle: float) -> Any:
    """What `benchmarks.measured` tells: the memory of an idle instance, in MiB, by engine."""

    def measured(wanted: Collection[str]) -> dict[str, Any]:
        asked.append(wanted)
        facts = {"unit": "MiB", "ratio": None, "loaded": True, "source": "measured here: run 1 of a day"}
        return {name: {"memory.idle": {**facts, "median": median}} for name, median in idle.items()}

    return measured


def test_what_was_measured_here_decides_and_is_said(engines: list[Engine]) -> None:
    asked: list[Collection[str]] = []
    small = spec(memory=128 * 2**20)
    containers = engines[:2]
    assert choose(small, containers, user_data=False)[0].name == "docker"  # as published they are equal
    engine, why = choose(small, containers, user_data=False, measured=_benched(asked, docker=60.0, lxc=8.0))
    assert engine.name == "lxc"
    assert "an idle one takes 8.0 MiB on this host, of 128 MiB asked for" in why
    assert why.endswith("(measured here: run 1 of a day)")
    assert asked == [{"memory.idle"}]


def test_figures_that_cannot_count_are_not_even_read(engines: list[Engine]) -> None:
    asked: list[Collection[str]] = []
    _, why = choose(spec(memory=2**30), engines, user_data=False, measured=_benched(asked, docker=1.0))
    assert (asked, "measured" in why) == ([], False)


def test_a_figure_against_another_engine_is_said_too(engines: list[Engine]) -> None:
    asked: list[Collection[str]] = []
    engine, why = choose(spec(memory=128 * 2**20), engines, user_data=False, measured=_benched(asked, lxc=90.0))
    assert engine.name == "docker"
    assert "(measured here" in why
