"""From what a backup says of a container to the request for one like it, on this host or another."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.network import Network, Nic
from triune.engines.archiving import RestorePlan
from triune.engines.docker import recreating, spec

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
NIC = Nic(
    network=Network(
        name="triune0", bridge="triune0", subnet="10.87.0.0/24", gateway="10.87.0.1", domain="triune.internal"
    ),
    mac="02:00:00:00:00:02",
    address="10.87.0.10",
)
DESCRIBED: dict[str, Any] = {
    "config": {
        "Hostname": "web",
        "Env": ["A=b"],
        "Image": "nginx:1",
        "MacAddress": "02:00:00:00:00:01",
        "Labels": {"who": "me", spec.CREATED: "before", spec.SETTINGS: '{"x": "y"}'},
    },
    "host": {
        "Memory": 1 << 20,
        "Binds": ["/srv/www:/www:ro", "data:/data"],
        "Mounts": [
            {"Type": "tmpfs", "Target": "/run"},
            {"Type": "bind", "Source": "/srv/in", "Target": "/in"},
            {"Type": "volume", "Source": "data", "Target": "/data"},
        ],
        "NetworkMode": "bridge",
        "PortBindings": {"80/tcp": [{"HostPort": "80"}]},
        "Dns": ["192.0.2.1"],
        "CgroupParent": "/elsewhere",
        "AutoRemove": True,
        "OomScoreAdj": None,
    },
    "spec": {"name": "web"},
    "volumes": [
        {"part": "volume0", "name": "data", "destination": "/data", "read_only": True, "anonymous": False},
        {"part": "volume1", "name": "ab" * 32, "destination": "/cache", "anonymous": True},
    ],
}


def plan(described: dict[str, Any] = DESCRIBED, nics: tuple[Nic, ...] = (), **changes: Any) -> RestorePlan:
    asked = InstanceSpec(name="web2", image="docker:nginx:1", engine="docker", **changes)
    return RestorePlan(spec=asked, image="docker:nginx:1", created=WHEN, described=described, nics=nics)


def body(given_plan: RestorePlan, *taken: str, endpoint_mac: bool = False) -> dict[str, Any]:
    return recreating.create_body(given_plan, "sha256:aa", spec.Abilities(endpoint_mac=endpoint_mac), taken)


def changed(part: str, **changes: Any) -> dict[str, Any]:
    return {**DESCRIBED, part: {**DESCRIBED[part], **changes}}


def test_the_limits_of_the_backup_are_told_not_those_of_the_launch() -> None:
    described = copy.deepcopy(DESCRIBED)
    described["config"]["Labels"] |= {spec.CPUS: "0.5", spec.MEMORY: str(2 << 20)}
    labels = recreating.create_body(plan(described), "x", spec.Abilities(), ())["Labels"]
    assert (labels.get(spec.CPUS), labels[spec.MEMORY]) == (None, str(1 << 20))


def test_what_was_asked_for_comes_back_under_the_new_name() -> None:
    before = copy.deepcopy(DESCRIBED)
    made = body(plan())
    assert before == DESCRIBED, "what was read stays as it is"
    assert (made["Hostname"], made["Image"], made["Env"]) == ("web2", "sha256:aa", ["A=b"])
    assert made["HostConfig"]["Memory"] == 1 << 20


def test_what_is_the_old_host_s_is_left_there() -> None:
    made = body(plan())
    host = made["HostConfig"]
    assert {"Dns", "CgroupParent", "AutoRemove", "PortBindings", "OomScoreAdj"} & host.keys() == set()
    assert host["NetworkMode"] == "none"
    assert "MacAddress" not in made


def test_the_marks_are_ours_and_new() -> None:
    labels = body(plan())["Labels"]
    assert labels == {
        "who": "me",
        spec.MANAGED: "1",
        spec.CREATED: WHEN.isoformat(),
        spec.IMAGE: "docker:nginx:1",
        spec.SETTINGS: '{"x": "y"}',
        spec.COMMAND: "[]",
        spec.MEMORY: str(1 << 20),
    }
    adopted = body(replace(plan(changed("config", Labels=None)), image=""))["Labels"]
    assert (adopted[spec.IMAGE], adopted[spec.SETTINGS]) == ("nginx:1", "{}"), "of one that Triune did not make"


@pytest.mark.parametrize(
    ("before", "after"),
    [("web", "web2"), ("0123456789ab", "web2"), (None, None), ("mail.example.org", "mail.example.org")],
    ids=["its name", "Docker's choice", "none", "somebody's choice"],
)
def test_host_names(before: str | None, after: str | None) -> None:
    assert body(plan(changed("config", Hostname=before)))["Hostname"] == after


def test_volumes_are_made_with_the_container_and_marked() -> None:
    mounts = [mount for mount in body(plan())["HostConfig"]["Mounts"] if mount["Type"] == "volume"]
    marked = {"NoCopy": True, "Labels": {recreating.RESTORED: WHEN.isoformat()}}
    assert mounts == [
        {"Type": "volume", "Target": "/data", "ReadOnly": True, "VolumeOptions": marked, "Source": "data"},
        {"Type": "volume", "Target": "/cache", "ReadOnly": False, "VolumeOptions": marked},
    ]


def test_a_volume_that_exists_is_left_alone() -> None:
    def source(*taken: str) -> str:
        return next(one["Source"] for one in body(plan(), *taken)["HostConfig"]["Mounts"] if one["Target"] == "/data")

    assert source("data") == "web2-data"
    third = source("data", "web2-data")
    assert third.startswith("web2-data-")
    assert len(third) == len("web2-data-") + 8


def test_folders_of_the_host() -> None:
    host = body(plan())["HostConfig"]
    assert host["Binds"] == ["/srv/www:/www:ro"], "a volume's name is none"
    kept = [mount for mount in host["Mounts"] if mount["Type"] != "volume"]
    assert kept == [DESCRIBED["host"]["Mounts"][0], DESCRIBED["host"]["Mounts"][1]]
    now = plan(volumes=(VolumeMount(source="/srv/now", target="/in"),))
    binds = [mount for mount in body(now)["HostConfig"]["Mounts"] if mount["Type"] == "bind"]
    assert [(one["Source"], one["Target"]) for one in binds] == [("/srv/now", "/in")], "as they are asked for now"


def test_the_card_is_the_new_one() -> None:
    made = body(plan(nics=(NIC,)))
    assert made["MacAddress"] == NIC.mac
    assert made["HostConfig"]["NetworkMode"] == "triune0"
    assert made["HostConfig"]["Dns"] == ["10.87.0.1"]
    assert made["NetworkingConfig"]["EndpointsConfig"] == {"triune0": {"IPAMConfig": {"IPv4Address": "10.87.0.10"}}}
    newer = body(plan(nics=(NIC,)), endpoint_mac=True)
    assert "MacAddress" not in newer
    assert newer["NetworkingConfig"]["EndpointsConfig"]["triune0"]["MacAddress"] == NIC.mac


@pytest.mark.parametrize("lacking", ["config", "host"])
def test_a_description_without_configuration(lacking: str) -> None:
    for value in (None, [], "text"):
        with pytest.raises(Failed) as error:
            body(plan({**DESCRIBED, lacking: value}))
        assert error.value.code == "bad_manifest"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=5)


@given(JSON | st.lists(st.dictionaries(st.text(max_size=4), JSON)))
def test_volumes_are_read_from_anything(found: object) -> None:
    assert all(isinstance(one, dict) for one in recreating.volumes({"volumes": found}))


def test_it_is_json() -> None:
    assert json.loads(json.dumps(body(plan(nics=(NIC,))))) == body(plan(nics=(NIC,)))
