"""Snapshots, clones and schedules through a daemon and the command line, killed at every step, on real containers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.contract.adapters import TESTS, DockerAdapter
from tests.live.daemon import Daemon
from tests.patience import PATIENCE
from triune.engines.docker.engine import DockerEngine

pytestmark = [pytest.mark.live, pytest.mark.docker]

DATA = TESTS / "snapd"
WEB = "tsnapd-web"
IMAGE = "tsnapd-live:1"


def docker(*argv: str) -> list[str]:
    done = subprocess.run(["/usr/bin/docker", *argv], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    shutil.rmtree(DATA, ignore_errors=True)
    adapter = DockerAdapter()
    adapter.reference = IMAGE
    engine = DockerEngine(state_dir=DATA / "none")
    if not engine.probe().available:
        pytest.skip("no Docker")
    adapter.form(engine)
    made = Daemon(DATA, bridge="tsnapd0", table="triune_snapd", domain="tsnapd.internal", candidates=("10.152.0.0/16",))
    with made as running:
        running.remove_all("tsnapd-")
        options = ("--publish", "18099:80", "--memory", "64MiB", "--volume", "pv:/data")
        running.run("volume", "create", "pv")
        running.launch(f"docker:{IMAGE}", WEB, "docker", *options, command=("sleep", "1000"))
        yield running
        if running.process is not None and running.process.poll() is not None:
            running.start()
        running.remove_all("tsnapd-")
        running.run("volume", "rm", "pv", "--yes")
        assert list((DATA / "instances/docker/snapshots").glob("*")) == []
        assert not [one for one in docker("images", "--format", "{{.Repository}}") if "tsnapd-" in one and "/" in one]
    assert engine.oci is not None
    engine.oci.remove(IMAGE)


def write(daemon: Daemon, text: str) -> None:
    daemon.exec(WEB, "sh", "-c", f"echo {text} > /what; echo {text} > /data/what")


def said(daemon: Daemon, name: str = WEB) -> str:
    return daemon.exec(name, "cat", "/what", "/data/what")


def snapshots(daemon: Daemon) -> list[str]:
    return [row["name"] for row in daemon.json("snapshot", "list", WEB)]


def clear(daemon: Daemon) -> None:
    for name in snapshots(daemon):
        daemon.run("snapshot", "rm", WEB, name)


def test_the_whole_way(daemon: Daemon) -> None:
    before = daemon.json("show", WEB)
    write(daemon, "one")
    daemon.run("snapshot", "create", WEB, "one", "--comment", "first", "--expires", "7d")
    write(daemon, "two")
    refused = daemon.run("snapshot", "restore", WEB, "one", "--yes", check=False)
    assert (refused.returncode, said(daemon)) == (4, "two\ntwo\n")
    daemon.run("snapshot", "restore", WEB, "one", "--force")
    assert said(daemon) == "one\none\n"
    after = daemon.json("show", WEB)
    for key in ("image", "addresses", "memory_bytes", "created", "command", "settings", "devices"):
        assert after[key] == before[key], key
    assert after["network"][0]["mac"] == before["network"][0]["mac"]
    assert after["network"][0]["published"] == ["18099:80"]
    unsupported = daemon.run("snapshot", "create", WEB, "--stateful", check=False)
    assert unsupported.returncode == 6, unsupported.stderr
    assert all("triune-snapshot" not in row["name"] for row in daemon.json("image", "list"))
    clear(daemon)


def test_a_clone_is_reached_by_its_name(daemon: Daemon) -> None:
    write(daemon, "one")
    daemon.run("clone", WEB, "tsnapd-two", "--start")
    rows = daemon.names()
    assert rows["tsnapd-two"]["addresses"] not in ([], rows[WEB]["addresses"])
    assert daemon.exec("tsnapd-two", "hostname").strip() == "tsnapd-two"
    daemon.exec(WEB, "ping", "-c", "1", "-W", "3", "tsnapd-two") if has_ping(daemon) else None
    assert daemon.json("show", "tsnapd-two")["network"][0]["published"] in ([], None)
    daemon.run("rm", "tsnapd-two", "--yes", "--force")


def has_ping(daemon: Daemon) -> bool:
    return daemon.run("exec", WEB, "--", "ping", "-c", "1", "127.0.0.1", check=False).returncode == 0


def test_removed_natively_its_snapshots_are_not_those_of_the_next(daemon: Daemon) -> None:
    name = "tsnapd-gone"
    daemon.launch(f"docker:{IMAGE}", name, "docker", command=("sleep", "1000"))
    daemon.run("snapshot", "create", name, "one")
    docker("rm", "-f", name)
    daemon.launch(f"docker:{IMAGE}", name, "docker", command=("sleep", "1000"))
    assert daemon.json("snapshot", "list", name) == []
    daemon.run("rm", name, "--yes", "--force")


# The steps of the service are points of tests/unit/services/snapshots/test_kill_points.py too.
STEPS = (
    *((f"snapshot:{step}", "undone") for step in ("docker-layer", "docker-volume", "docker-commit")),
    ("snapshot-restore:docker-stop", "undone"),
    *(
        (f"snapshot-restore:{step}", "finished")
        for step in ("docker-restore", "docker-volumes", "docker-switch", "start")
    ),
    ("snapshot-delete:delete", "finished"),
    *((f"clone:{step}", "undone") for step in ("docker-clone", "docker-clone-data", "before-keep")),
)


@pytest.mark.parametrize(("point", "end"), STEPS, ids=lambda word: word)
def test_killed_at_any_step(daemon: Daemon, point: str, end: str) -> None:
    kind = point.partition(":")[0]
    write(daemon, "one")
    if kind != "snapshot":
        daemon.run("snapshot", "create", WEB, "one")
        write(daemon, "two")
    daemon.crash(point)
    daemon.run(*COMMANDS[kind], check=False)
    daemon.died()
    daemon.start()
    try:
        row = daemon.names()[WEB]
        assert row["state"] == "running"
        restored = kind == "snapshot-restore" and end == "finished"
        assert said(daemon) == ("one\none\n" if kind == "snapshot" or restored else "two\ntwo\n")
        assert snapshots(daemon) == ([] if kind in ("snapshot", "snapshot-delete") else ["one"])
        assert "tsnapd-copy" not in daemon.names()
        assert [
            one for one in docker("ps", "-a", "--format", "{{.Names}}") if ".triune-" in one and "tsnapd" in one
        ] == []
        assert not [one for one in docker("volume", "ls", "-q") if "tsnapd-copy" in one]
        kept = [(one / "of").read_text() for one in (DATA / "instances/docker/snapshots").glob("*")]
        assert kept == [f"{WEB}/{name}" for name in snapshots(daemon)]
    finally:
        clear(daemon)


COMMANDS = {
    "snapshot": ("snapshot", "create", WEB, "one"),
    "snapshot-restore": ("snapshot", "restore", WEB, "one", "--force"),
    "snapshot-delete": ("snapshot", "rm", WEB, "one"),
    "clone": ("clone", WEB, "tsnapd-copy"),
}


def test_a_schedule_survives_a_restart_and_makes_up_for_what_was_missed(daemon: Daemon) -> None:
    daemon.run("snapshot", "schedule", WEB, "--every", "1m", "--keep", "1")
    daemon.run("snapshot", "create", WEB, "mine")
    daemon.stop()
    # As if the host had been off for some hours.
    import sqlite3

    with sqlite3.connect(DATA / "triune.db") as store:
        table = store.execute("select name from sqlite_master where sql like '%value%' and type = 'table'").fetchone()[
            0
        ]
        key = f"schedules/{WEB}-1m"
        value = json.loads(store.execute(f"select value from {table} where key = ?", (key,)).fetchone()[0])
        value["next_run"] = "2026-01-01T00:00:00+00:00"
        store.execute(f"update {table} set value = ? where key = ?", (json.dumps(value), key))
    daemon.start()
    import time

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        row = daemon.json("snapshot", "schedule", "list")[0]
        if row["last_result"] == "done":
            break
        time.sleep(0.2)
    assert row["last_result"] == "done", row
    rows = daemon.json("snapshot", "list", WEB)
    assert [one["schedule"] for one in rows] == ["", f"{WEB}-1m"]
    assert any(one["data"].get("schedule") == f"{WEB}-1m" for one in daemon.json("ops", "list"))
    daemon.run("snapshot", "schedule", "rm", f"{WEB}-1m")
    clear(daemon)
