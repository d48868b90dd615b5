"""From an inspection to the request for another container like it."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from triune.domain.network import Network, Nic
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.docker import recreate, spec
from triune.engines.docker.kept import Kept, _from_label, repository

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
FOUND: dict[str, Any] = {
    "Id": "594ed3e692748b698f5e8a4a",
    "Name": "/web",
    "Image": "sha256:aa",
    "Config": {
        "Hostname": "web",
        "Env": ["A=b", "container_uuid=1234"],
        "Image": "nginx:1",
        "MacAddress": "02:00:00:00:00:01",
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {spec.MANAGED: "1", spec.IMAGE: "docker:nginx:1", spec.CREATED: "x", spec.SETTINGS: "{}"},
        "Volumes": {"/cache": {}},
    },
    "HostConfig": {
        "NetworkMode": "triune0",
        "Binds": ["data:/data", "/srv/www:/www:ro"],
        "Mounts": [{"Type": "volume", "Source": "more", "Target": "/more"}, {"Type": "volume", "Target": "/loose"}],
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
        "Memory": 1 << 20,
        "VolumesFrom": ["gone"],
    },
    "Mounts": [
        {"Type": "volume", "Name": "data", "Destination": "/data"},
        {"Type": "volume", "Name": "more", "Destination": "/more"},
        {"Type": "volume", "Name": "f" * 64, "Destination": "/cache"},
        {"Type": "bind", "Source": "/srv/www", "Destination": "/www"},
    ],
    "NetworkSettings": {
        "Networks": {
            "other": {"IPAMConfig": None, "Aliases": None},
            "triune0": {
                "IPAMConfig": {"IPv4Address": "10.87.0.9"},
                "Aliases": ["594ed3e69274", "www"],
                "NetworkID": "x",
            },
        }
    },
}
NIC = Nic(
    network=Network(name="triune0", bridge="triune0", subnet="10.87.0.0/16", gateway="10.87.0.1", domain="t.internal"),
    mac="02:00:00:00:00:02",
    address="10.87.0.10",
)


def test_the_same_again() -> None:
    before = copy.deepcopy(FOUND)
    body = recreate.same(FOUND, "nginx:1")
    assert before == FOUND, "what was read stays as it is"
    assert body["NetworkingConfig"]["EndpointsConfig"] == {
        "triune0": {"IPAMConfig": {"IPv4Address": "10.87.0.9"}, "Aliases": ["www"]}
    }
    assert list(recreate.further_networks(FOUND)) == ["other"]
    assert body["HostConfig"]["VolumesFrom"] == [FOUND["Id"]], "anonymous volumes go on as such"
    assert body["HostConfig"]["Mounts"] == [{"Type": "volume", "Source": "more", "Target": "/more"}]
    assert (body["Hostname"], body["MacAddress"], body["Labels"]) == (
        "web", "02:00:00:00:00:01", FOUND["Config"]["Labels"] | {spec.MEMORY: str(1 << 20)}
    )  # fmt: skip
    assert body["HostConfig"]["Memory"] == 1 << 20


def test_the_limits_of_now_are_told_not_those_of_the_launch() -> None:
    found = copy.deepcopy(FOUND)
    found["Config"]["Labels"] |= {spec.CPUS: "0.5", spec.MEMORY: str(2 << 20)}
    found["HostConfig"] |= {"NanoCpus": 1_500_000_000, "Memory": 0}
    for body in (recreate.same(found, "nginx:1"), another(found)):
        told = {key: value for key, value in body["Labels"].items() if key in (spec.CPUS, spec.MEMORY)}
        assert told == {spec.CPUS: "1.5"}


def test_what_is_not_ours_gets_no_label_of_ours() -> None:
    found = copy.deepcopy(FOUND)
    found["Config"]["Labels"] = {"a": "b"}
    assert recreate.same(found, "nginx:1")["Labels"] == {"a": "b"}
    assert another(found)["Labels"][spec.MEMORY] == str(1 << 20), "a clone is ours"


def test_without_anonymous_volumes_nothing_is_taken_over() -> None:
    found = {**FOUND, "Mounts": FOUND["Mounts"][:2]}
    assert "VolumesFrom" not in recreate.same(found, "x")["HostConfig"]


def test_another_container_s_network() -> None:
    found = {**FOUND, "HostConfig": {**FOUND["HostConfig"], "NetworkMode": "container:abc"}}
    body = recreate.same(found, "x")
    assert {"Hostname", "ExposedPorts", "MacAddress", "NetworkingConfig"} & body.keys() == set()


def another(found: dict[str, Any], nics: tuple[Nic, ...] = (NIC,), *, endpoint_mac: bool = False) -> dict[str, Any]:
    return recreate.another(
        found, "nginx:1", name="copy", created=WHEN, machine_id="5678", nics=nics, volumes={"data": "copy-data"},
        endpoint_mac=endpoint_mac,
    )  # fmt: skip


def test_another_identity() -> None:
    body = another(FOUND)
    assert (body["Hostname"], body["MacAddress"]) == ("copy", "02:00:00:00:00:02")
    assert body["Env"] == ["A=b", "container_uuid=5678"]
    assert body["HostConfig"]["PortBindings"] == {}
    assert body["HostConfig"]["Binds"] == ["copy-data:/data", "/srv/www:/www:ro"]
    assert body["HostConfig"]["Mounts"][1] == {"Type": "volume", "Target": "/loose"}, "a new anonymous one"
    assert "VolumesFrom" not in body["HostConfig"]
    assert body["Labels"][spec.CREATED] == WHEN.isoformat()
    assert body["Labels"][spec.IMAGE] == "docker:nginx:1"
    assert json.loads(body["Labels"][recreate.OWN_VOLUMES]) == ["copy-data"]
    assert body["NetworkingConfig"]["EndpointsConfig"] == {"triune0": {"IPAMConfig": {"IPv4Address": "10.87.0.10"}}}


def test_newer_engines_take_the_mac_with_the_endpoint() -> None:
    body = another(FOUND, endpoint_mac=True)
    assert "MacAddress" not in body
    assert body["NetworkingConfig"]["EndpointsConfig"]["triune0"]["MacAddress"] == "02:00:00:00:00:02"


def test_what_was_adopted_becomes_managed() -> None:
    found = {**FOUND, "Config": {**FOUND["Config"], "Labels": None}}
    labels = another(found, ())["Labels"]
    assert (labels[spec.MANAGED], labels[spec.IMAGE], labels[spec.SETTINGS]) == ("1", "nginx:1", "{}")


def test_repositories_of_any_name() -> None:
    assert repository("web-1") == "triune-snapshot/web-1"
    odd = repository("My_App")
    assert odd == odd.lower()
    assert odd != repository("my_app")


@given(st.text(max_size=200))
def test_labels_that_others_wrote_are_no_snapshots(text: str) -> None:
    found = _from_label("x", "sha256:aa", text)
    assert found is None or isinstance(found, Kept)


@given(st.text(max_size=50), st.none() | st.integers(0, 2**50), st.booleans())
def test_labels_are_read_back(comment: str, size: int | None, layer: bool) -> None:
    snapshot = Snapshot(
        name="x", created=WHEN, consistency=Consistency.FROZEN, size=size, comment=comment, expires=WHEN
    )
    kept = Kept(snapshot=snapshot, image="i", uid="0" * 16, base="b", layer=layer, volumes={"0": ("/data", "data")})
    assert _from_label("x", "i", kept.to_label()) == kept


def test_a_label_cannot_lead_out_of_the_folder() -> None:
    snapshot = Snapshot(name="x", created=WHEN, consistency=Consistency.FROZEN)
    for uid in ("../../etc", "", "0" * 15, "0" * 16 + "\n"):
        kept = Kept(snapshot=snapshot, uid=uid, base="b", layer=True)
        assert _from_label("x", "i", kept.to_label()) is None
    kept = Kept(snapshot=snapshot, uid="0" * 16, base="b", layer=True, volumes={"0/../../x": ("/data", "data")})
    assert _from_label("x", "i", kept.to_label()) is None
