"""Snapshots, clones and schedules through the API and the command line, on fake engines."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.api.house import TRIUNE, House
from tests.api.test_api_openapi import check, document
from tests.patience import PATIENCE
from triune.domain.errors import Conflict, Invalid, NotFound, Unsupported

pytestmark = pytest.mark.heavy  # many commands

SNAPSHOT = {
    "name", "instance", "created", "consistency", "memory", "size", "parent", "expires", "schedule", "comment"
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_schedules(house: House) -> None:
    for one in house.triune.schedules.list():
        house.triune.schedules.delete(one.name)


def taken(house: House, instance: str, name: str | None = None, **more: object) -> str:
    operation = house.client.snapshots.create(instance, name, **more)  # type: ignore[arg-type]
    return str(house.client.operations.result(operation["id"], timeout=PATIENCE)["name"])


def test_replies_are_what_the_document_says(house: House) -> None:
    openapi = document(house)
    house.launch("web")
    call = house.client.transport.call
    made = call("POST", "/v1/instances/web/snapshots", {"name": "one", "expires": "7d", "comment": "c"})
    check(openapi, "post", "/v1/instances/{name}/snapshots", 202, made)
    house.client.operations.result(made["id"], timeout=PATIENCE)
    check(openapi, "get", "/v1/instances/{name}/snapshots", 200, call("GET", "/v1/instances/web/snapshots"))
    one = call("GET", "/v1/instances/web/snapshots/one")
    check(openapi, "get", "/v1/instances/{name}/snapshots/{snapshot}", 200, one)
    assert timedelta(days=6) < datetime.fromisoformat(one["expires"]) - datetime.now(UTC) < timedelta(days=7)
    schedule = call("POST", "/v1/schedules", {"subject": "web", "every": "1h", "keep": 24})
    check(openapi, "post", "/v1/schedules", 201, schedule)
    assert schedule["name"] == "web-1h"
    check(openapi, "get", "/v1/schedules", 200, call("GET", "/v1/schedules"))
    check(openapi, "get", "/v1/schedules/{name}", 200, call("GET", "/v1/schedules/web-1h"))


def test_the_sdk_reads_what_the_document_says(house: House) -> None:
    from triune.sdk import types

    schemas = document(house)["components"]["schemas"]
    assert set(types.SnapshotRow.__annotations__) == set(schemas["Snapshot"]["properties"])
    assert set(types.ScheduleRow.__annotations__) == set(schemas["Schedule"]["properties"])


def test_lists_come_in_pages(house: House) -> None:
    house.launch("web")
    names = [taken(house, "web", f"s{number}") for number in range(5)]
    call = house.client.transport.call
    first = call("GET", "/v1/instances/web/snapshots?limit=2&fields=name")
    assert first["items"] == [{"name": "s0"}, {"name": "s1"}]
    second = call("GET", f"/v1/instances/web/snapshots?limit=10&cursor={first['next']}")
    assert [row["name"] for row in second["items"]] == names[2:]
    assert call("GET", "/v1/instances/web/snapshots?filter=name=s3")["items"][0]["name"] == "s3"


def test_a_thousand_snapshots_are_never_read_for_the_list(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.launch("web")
    facet = house.engine("lxc").snapshots
    assert facet is not None

    def never(name: str) -> object:
        raise AssertionError(f"the snapshots of {name} were read")

    monkeypatch.setattr(facet, "list", never)
    assert [row["name"] for row in house.client.instances.list()[0]] == ["web"]
    house.client.instances.get("web")


def test_the_whole_way_on_the_command_line(house: House) -> None:
    house.launch("web", settings={"log": "before"})
    done = house.run("snapshot", "create", "web", "one", "--comment", "first", "--expires", "7d")
    assert done.returncode == 0
    assert done.stdout.decode().startswith("snapshot one of web is taken (frozen, ")
    house.run("snapshot", "create", "web", "-q")
    rows = json.loads(house.run("snapshot", "list", "web", "--format", "json").stdout)
    assert [set(row) for row in rows] == [SNAPSHOT, SNAPSHOT]
    assert (rows[0]["name"], rows[0]["comment"]) == ("one", "first")
    assert rows[1]["name"].startswith("snap-")
    assert b"in 6d" in house.run("snapshot", "list", "web").stdout
    house.engine("lxc").find("web").log.append("changed")
    restored = house.run("snapshot", "restore", "web", "one", "--force")
    assert restored.stdout.decode().startswith("web is put back to one and running (")
    assert "changed" not in house.engine("lxc").find("web").log
    gone = house.run("snapshot", "rm", "web", "one", rows[1]["name"])
    assert gone.returncode == 0
    assert gone.stdout.count(b"is removed") == 2
    assert b"No snapshots of web" in house.run("snapshot", "list", "web").stderr


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("snapshot", "create", "nobody"), 3, b"instance_not_found"),
        (("snapshot", "create", "web", "one"), 4, b"has a snapshot 'one' already"),
        (("snapshot", "create", "web", "Bad Name"), 2, b"not a valid name"),
        (("snapshot", "create", "web", "--expires", "soon"), 2, b"neither a duration nor a time"),
        (("snapshot", "create", "web", "--expires", "2001-01-01T00:00:00Z"), 2, b"has passed already"),
        (("snapshot", "restore", "web", "none", "--yes"), 3, b"has no snapshot"),
        (("snapshot", "restore", "web", "one", "--yes"), 4, b"--force"),
        (("snapshot", "restore", "web", "one"), 4, b"--force"),
        (("snapshot", "restore", "off", "one"), 2, b"--yes"),
        (("snapshot", "rm", "web", "none"), 3, b"has no snapshot"),
        (("snapshot", "rm", "web"), 2, b"SNAP"),
        (("clone", "web", "off"), 4, b"already"),
        (("clone", "web", "x", "--snapshot", "none"), 3, b"has no snapshot"),
        (("clone", "web", "-x"), 2, b"option"),
        (("snapshot", "schedule", "web"), 2, b"--every 1h"),
        (("snapshot", "schedule", "web", "--every", "5s"), 2, b"between a minute and a year"),
        (("snapshot", "schedule", "web", "--at", "25:00"), 2, b"time of day"),
        (("snapshot", "schedule", "nobody", "--every", "1h"), 3, b"nobody"),
        (("snapshot", "schedule", "rm", "none"), 3, b"no schedule"),
    ],
)
def test_bad_input(house: House, argv: tuple[str, ...], code: int, said: bytes) -> None:
    house.launch("web")
    house.launch("off", start=False)
    taken(house, "web", "one")
    taken(house, "off", "one")
    done = house.run(*argv)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert said in output or said == b"instance_not_found"
    assert [one["name"] for one in house.client.snapshots.list("web")] == ["one"]
    assert house.engine("lxc").find("web").state == "running"


def test_memory_where_it_cannot_be_kept(house: House) -> None:
    house.launch("web")
    facet = house.engine("lxc").snapshots
    assert facet is not None
    facet.memory = False
    try:
        done = house.run("snapshot", "create", "web", "--stateful")
        assert done.returncode == 6
        assert b"running state" in done.stderr
        with pytest.raises(Unsupported):
            house.client.schedules.create("web", every="1h", memory=True)
    finally:
        facet.memory = True


def at_the_prompt(house: House, answer: bytes, *argv: str) -> tuple[int, bytes]:
    """Run it on a terminal and answer what it asks."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([str(TRIUNE), *argv], env=house.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen, deadline, answered = b"", time.monotonic() + PATIENCE, False
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                seen += os.read(ours, 4096)
            except OSError:
                break
        if not answered and b"[y/N]" in seen:
            os.write(ours, answer)
            answered = True
    os.close(ours)
    assert answered, seen
    return process.wait(PATIENCE), seen


@pytest.mark.parametrize(("answer", "back"), [(b"y\n", True), (b"n\n", False)])
def test_it_asks_before_a_running_one_is_put_back(house: House, answer: bytes, back: bool) -> None:
    house.launch("web")
    taken(house, "web", "one")
    house.engine("lxc").find("web").log.append("changed")
    code, seen = at_the_prompt(house, answer, "snapshot", "restore", "web", "one")
    assert b"web is running: stop it" in seen
    assert (code == 0) == back
    assert ("changed" not in house.engine("lxc").find("web").log) == back
    assert house.engine("lxc").find("web").state == "running"


def test_clone_on_the_command_line(house: House) -> None:
    house.launch("web", publish=["8080:80"])
    done = house.run("clone", "web", "web2")
    assert done.stdout.decode().startswith("web2, a copy of web, is made, stopped (lxc, ")
    assert house.client.instances.get("web2")["state"] == "stopped"
    done = house.run("clone", "web", "web3", "--start")
    assert done.stdout.decode().startswith("web3, a copy of web, runs at 10.87.")
    rows = {row["name"]: row for row in house.client.instances.list()[0]}
    assert rows["web3"]["addresses"] != rows["web"]["addresses"]
    assert house.client.instances.get("web3")["network"][0]["published"] == []


def test_removing_and_renaming_take_snapshots_along(house: House) -> None:
    house.launch("web")
    taken(house, "web", "one")
    assert house.run("rename", "web", "www").returncode == 0
    assert [one["name"] for one in house.client.snapshots.list("www")] == ["one"]
    assert house.run("rm", "www", "--yes", "--force").returncode == 0
    house.launch("www")
    assert house.client.snapshots.list("www") == []


def test_schedules_on_the_command_line(house: House) -> None:
    house.launch("web")
    done = house.run("snapshot", "schedule", "web", "--every", "1h", "--keep", "24")
    assert done.stdout == b"schedule web-1h: a snapshot of web every 1h, keeping 24\n", done.stderr
    assert house.run("snapshot", "schedule", "add", "web", "--at", "03:00", "--name", "nightly").returncode == 0
    assert house.run("snapshot", "schedule", "web", "--every", "1h").returncode == 4
    rows = json.loads(house.run("snapshot", "schedule", "list", "--format", "json").stdout)
    assert [(row["name"], row["every"], row["at"], row["keep"]) for row in rows] == [
        ("nightly", None, "03:00", {}),
        ("web-1h", 3600.0, None, {"last": 24}),
    ]
    assert house.run("rename", "web", "www").returncode == 0
    assert {row["subject"] for row in house.client.schedules.list()} == {"www"}
    assert house.run("snapshot", "schedule", "rm", "nightly", "web-1h").returncode == 0
    assert b"No schedules" in house.run("snapshot", "schedule", "list").stderr


def test_a_schedule_takes_and_thins_out(house: House) -> None:
    house.launch("web")
    taken(house, "web", "mine")
    house.client.schedules.create("web", every=60, keep=2)
    for _ in range(4):
        one = house.triune.schedules.get("web-1m")
        house.client.operations.result(house.triune.schedules.actions["snapshot"](one).id, timeout=PATIENCE)
    rows = house.client.snapshots.list("web")
    assert [row["schedule"] for row in rows] == ["", "web-1m", "web-1m"]
    kinds = [(row["kind"], row["data"].get("schedule")) for row in house.client.operations.list(limit=3)]
    assert kinds[0] == ("snapshot", "web-1m")


def test_errors_of_the_sdk(house: House) -> None:
    house.launch("web")
    taken(house, "web", "one")
    with pytest.raises(NotFound):
        house.client.snapshots.get("web", "none")
    with pytest.raises(Conflict):
        house.client.snapshots.create("web", "one")
    with pytest.raises(Invalid):
        house.client.schedules.create("web", every="1h", at="03:00")
    with pytest.raises(NotFound):
        house.client.schedules.remove("none")
