"""Limits over HTTP and on the command line: at launch, live, refused, undone, set again after a start."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.house import House
from tests.api.test_api_instances import etag
from tests.patience import until
from triune.domain.errors import Conflict, Failed, Invalid, Stale, TriuneError, Unsupported
from triune.domain.limits import FIELDS


def change(house: House, name: str, **limits: Any) -> Any:
    words = {key.replace("_", "."): value for key, value in limits.items()}
    return house.client.operations.result(house.client.instances.set_limits(name, words)["id"])


def limits(house: House, name: str) -> dict[str, Any]:
    shown = house.client.instances.get(name)["limits"]
    assert set(shown) == set(FIELDS)
    return {key: value for key, value in shown.items() if value is not None}


def shaped(house: House) -> list[tuple[int | None, int | None]]:
    return list(house.shaper.shaped.values())


def test_at_launch_by_every_way_of_saying_it(house: House) -> None:
    house.launch(
        "web",
        cpus=1.5,
        settings={"memory": "64MiB", "pids": "50", "log": "one"},
        limits={"io.read": "1MiB/s", "net.out": 10**6},
    )
    found = {"cpus": 1.5, "memory": 64 << 20, "pids": 50, "io.read": 1 << 20, "net.out": 10**6}
    assert limits(house, "web") == found
    assert house.client.instances.get("web")["settings"] == {"log": "one"}
    assert shaped(house) == [(None, 10**6)]
    with pytest.raises(Invalid, match="cpus is given twice"):
        house.launch("two", cpus=1, limits={"cpus": 2})


def test_a_change_merges_and_says_what_acts_when(house: House) -> None:
    house.launch("web", memory="64MiB")
    result = change(house, "web", cpus="0.5", cpu_pin="0", net_in="8Mbit/s")
    assert result["now"] == ["cpus", "net.in"]
    assert result["later"] == ["cpu.pin"]
    assert limits(house, "web") == {"cpus": 0.5, "cpu.pin": "0", "memory": 64 << 20, "net.in": 8 * 10**6}
    assert shaped(house) == [(8 * 10**6, None)]
    result = change(house, "web", memory=None, net_in="none")
    assert result["limits"] == limits(house, "web") == {"cpus": 0.5, "cpu.pin": "0"}
    assert shaped(house) == [(None, None)]
    house.client.operations.result(house.client.instances.stop("web")["id"])
    assert change(house, "web", pids=9)["later"] == ["pids"]


def test_what_the_engine_forgets_is_set_again_after_every_start(house: House) -> None:
    house.launch("web")
    change(house, "web", iops_read=100, net_out="1Mbit/s")
    engine = house.engine("lxc")
    house.shaper.shaped.clear()
    house.client.operations.result(house.client.instances.restart("web")["id"])
    assert engine.find("web").limits == {"iops.read": 100}
    assert shaped(house) == [(None, 10**6)]
    house.client.operations.result(house.client.instances.stop("web")["id"])
    house.shaper.shaped.clear()
    from triune.domain.operation import Silent

    engine.start("web", Silent())  # by another tool
    until(lambda: shaped(house) == [(None, 10**6)] and engine.find("web").limits == {"iops.read": 100})
    change(house, "web", iops_read=None)
    house.client.operations.result(house.client.instances.restart("web")["id"])
    assert engine.find("web").limits == {}


def test_they_move_and_go_with_their_instance(house: House) -> None:
    house.launch("web", limits={"net.in": "1Mbit/s"})
    house.client.operations.result(house.client.instances.rename("web", "site")["id"])
    assert limits(house, "site") == {"net.in": 10**6}
    house.client.operations.result(house.client.instances.remove("site", force=True)["id"])
    house.launch("web")
    house.launch("site")
    assert limits(house, "web") == limits(house, "site") == {}


@pytest.mark.parametrize(
    ("words", "kind", "code", "said"),
    [
        ({"memory": "16MiB"}, Conflict, "limit_below_use", "32.0 MiB"),
        ({"memory": "900TiB"}, Invalid, "memory_exceeds_host", "than this host has"),
        ({"memory": "1KiB"}, Invalid, "memory_too_small", "too little"),
        ({"cpus": "4096"}, Invalid, "cpus_exceed_host", "CPUs"),
        ({"cpu.pin": "8191"}, Invalid, "no_such_cpu", "8191"),
        ({"cpu.wieght": "1"}, Invalid, "unknown_limit", "cpu.wieght"),
        ({"io.read": "fast"}, Invalid, "bad_limit", "'fast'"),
        ({}, Invalid, "nothing_to_change", "web"),
    ],
)
def test_refusals_change_nothing(
    house: House, words: dict[str, str], kind: type[TriuneError], code: str, said: str
) -> None:
    house.launch("web", memory="64MiB")
    with pytest.raises(kind) as raised:
        house.client.operations.result(house.client.instances.set_limits("web", words)["id"])
    assert raised.value.code == code
    assert said in raised.value.message
    assert raised.value.hint
    assert limits(house, "web") == {"memory": 64 << 20}


def test_a_change_that_fails_half_way_is_undone(house: House) -> None:
    house.launch("web", memory="64MiB", limits={"iops.read": 10})
    house.shaper.failure = Failed("tc_failed", "tc said no", hint="See: tc qdisc")
    with pytest.raises(Failed, match="tc said no"):
        change(house, "web", memory="128MiB", iops_read=20, iops_write=5, net_in="1Mbit/s")
    assert limits(house, "web") == {"memory": 64 << 20, "iops.read": 10}
    assert shaped(house) == [(None, None)]
    with pytest.raises(Failed, match="tc said no"):
        house.launch("two", limits={"net.in": "1Mbit/s"})
    assert [row["name"] for row in house.client.instances.list()[0]] == ["web"]


def test_what_cannot_be_limited_is_refused_with_the_reason(house: House) -> None:
    house.shaper.reason = "there is no tc"
    for doing in (
        lambda: house.launch("web", limits={"net.in": "1Mbit/s"}),
        lambda: change(house, "web", net_in="1Mbit/s"),
    ):
        with pytest.raises(Unsupported, match=r"net\.in here: there is no tc"):
            doing()
        if not house.client.instances.list()[0]:
            house.launch("web")
    ability = house.client.host()["engines"][0]["limits"]
    assert ability["net.in"] == {"available": False, "live": False, "reason": "there is no tc"}
    assert ability["cpu.pin"] == {"available": True, "live": False, "reason": ""}
    house.shaper.reason = ""
    house.launch("alone", network=None)
    with pytest.raises(Conflict, match="no network card"):
        change(house, "alone", net_in="1Mbit/s")
    with pytest.raises(Invalid, match="without a network"):
        house.launch("more", network=None, limits={"net.in": "1Mbit/s"})


def test_the_etag_is_of_the_limits_too(house: House) -> None:
    house.launch("web")
    before = etag(house, "web")
    call = house.client.transport.call
    body = {"limits": {"pids": 100}}
    operation = call("PATCH", "/v1/instances/web", body, headers={"If-Match": before})
    house.client.operations.result(operation["id"])
    assert etag(house, "web") != before
    with pytest.raises(Stale):
        call("PATCH", "/v1/instances/web", {"limits": {"pids": 200}}, headers={"If-Match": before})
    with pytest.raises(Invalid) as raised:
        call("PATCH", "/v1/instances/web", {"name": "site", "limits": {"pids": 200}})
    assert raised.value.code == "two_changes"
    assert limits(house, "web") == {"pids": 100}


def test_the_command(house: House) -> None:
    done = house.run("launch", "debian/12", "web", "--engine", "lxc", "--memory", "64MiB", "--set", "pids=50")
    assert done.returncode == 0, done.stderr
    done = house.run("set", "web", "cpus=1.5", "io.read=50MiB/s", "cpu.pin=0", "cpu.weight=none")
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        "web has cpus 1.5, cpu.weight as normal, io.read 50.0 MiB/s now",
        "web has cpu.pin 0 from its next start",
    ]
    shown = house.run("show", "web").stdout.decode()
    section = " ".join(shown[shown.index("Limits") :].split())
    assert section == "Limits cpus: 1.5 cpu.pin: 0 memory: 64.0 MiB pids: 50 io.read: 50.0 MiB/s"
    assert json.loads(house.run("show", "web", "--format", "json").stdout)["limits"]["io.read"] == 50 << 20
    assert house.run("set", "-q", "web", "pids=60").stdout == b""


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (("set", "web", "memory=16MiB"), 4, "limit_below_use"),
        (("set", "web", "memory"), 2, "'memory' is not KEY=VALUE"),
        (("set", "web", "mem=1"), 2, "'memory'"),
        (("set", "web"), 2, "missing argument"),
        (("set", "none", "pids=5"), 3, "instance_not_found"),
        (("launch", "debian/12", "two", "--cpus", "1", "--set", "cpus=2"), 2, "given twice"),
    ],
)
def test_the_commands_errors(house: House, argv: tuple[str, ...], status: int, said: str) -> None:
    house.launch("web")
    done = house.run(*argv)
    assert done.returncode == status, done.stderr
    assert said in done.stderr.decode()
