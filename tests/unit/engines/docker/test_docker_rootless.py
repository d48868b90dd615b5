"""The rootless engine: what it refuses, and how its network differs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from triune.domain import limits
from triune.domain.errors import Unsupported
from triune.domain.image import OciForm
from triune.domain.instance import HOST_NETWORK, InstanceSpec, VolumeMount
from triune.domain.network import Network
from triune.engines import registry
from triune.engines.base import FACETS, LaunchPlan
from triune.engines.docker.bridging import matches
from triune.engines.docker.rootless import RootlessEngine, _missing, refuse
from triune.engines.registry import EngineSettings, engines
from triune.host import rootless

NETWORK = Network(
    name="triune0", bridge="triune0", subnet="10.87.0.0/24", gateway="10.87.0.1", domain="triune.internal"
)
PLAN = LaunchPlan(
    spec=InstanceSpec(name="web", image="debian/12", engine="rootless", network=None),
    form=OciForm(id="sha256:aa", reference="triune/debian:12"),
    image="debian/12",
    created=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
)


@pytest.fixture
def engine(tmp_path: Path) -> RootlessEngine:
    settings = EngineSettings(
        state_dir=tmp_path,
        enabled=("docker", "rootless"),
        rootless_url=f"unix://{tmp_path}/none.sock",
        docker_url=f"unix://{tmp_path}/neither.sock",
    )
    made = engines(settings)["rootless"]
    assert isinstance(made, RootlessEngine)
    return made


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"settings": {"pids-limit": "64"}}, "limit_unsupported"),
        ({"network": HOST_NETWORK}, "own_network_only"),
        ({"volumes": (VolumeMount(source="/srv", target="/srv"),)}, "volume_unsupported"),
    ],
)
def test_what_only_root_could_give_is_refused(engine: RootlessEngine, changes: dict[str, Any], code: str) -> None:
    plan = replace(PLAN, spec=replace(PLAN.spec, **changes))
    for check in (refuse, engine.check):
        with pytest.raises(Unsupported) as raised:
            check(plan)
        assert raised.value.code == code


def test_what_needs_no_root_passes() -> None:
    volumes = (VolumeMount(source="/srv", target="/srv", read_only=True),)
    refuse(replace(PLAN, spec=replace(PLAN.spec, volumes=volumes)))


def test_its_bridge_has_no_address_of_its_own(engine: RootlessEngine) -> None:
    assert engine.bridging is not None
    body = engine.bridging._body(NETWORK)  # type: ignore[attr-defined]
    assert body["Options"] == {
        "com.docker.network.bridge.name": "triune0",
        "com.docker.network.bridge.inhibit_ipv4": "true",
    }
    plain = {**body, "Options": {"com.docker.network.bridge.name": "triune0"}}
    assert not matches({**plain, "IPAM": body["IPAM"]}, body)
    assert matches(body, body)


def test_each_facet_it_lacks_has_a_reason(engine: RootlessEngine) -> None:
    lacking = {facet for facet in FACETS if getattr(engine, facet) is None}
    told = _missing().keys() | {"attaching", "importing", "templates"}  # the last are any Docker engine's
    assert lacking <= told
    assert {f"limiting.{key}" for key in limits.NETWORK} <= told


def test_each_limit_is_set_anew_after_a_start(engine: RootlessEngine) -> None:
    assert engine.limiting is not None
    assert engine.limiting.volatile == engine.limiting.keys
    assert not limits.NETWORK & engine.limiting.keys


def test_one_that_is_away_says_how_to_start_it(engine: RootlessEngine) -> None:
    probe = engine.probe()
    assert not probe.available
    assert "triune-docker" in probe.hint


def test_it_is_enabled_where_setup_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not rootless.installed(tmp_path)
    mark = tmp_path / rootless.PLACE.mark.relative_to("/")
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert rootless.installed(tmp_path)
    for there, expected in ((True, ("lxc", "kvm", "docker", "rootless")), (False, ("lxc", "kvm", "docker"))):
        monkeypatch.setattr(registry.rootless, "installed", lambda there=there: there)
        assert registry.usual() == expected


def test_the_names_of_its_links_fit_and_differ() -> None:
    names = {rootless.link_name(bridge) for bridge in ("triune0", "triune1", "a-bridge-of-15ch")}
    assert len(names) == 3
    assert max(map(len, names)) <= 15
