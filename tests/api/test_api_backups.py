"""Backups through the API and the command line, on fake engines; what stores them is real where it may run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.house import House
from tests.api.test_api_openapi import check, document
from tests.patience import PATIENCE, until
from triune.api.backup_schemas import Backup
from triune.domain.errors import Conflict, Denied, Failed, Invalid, NotFound, Unsupported
from triune.domain.operation import Operation
from triune.services.operations.locks import Holder

pytestmark = pytest.mark.heavy  # restic derives its key slowly, by design
stores = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("restic") is None, reason="needs root and restic, as the daemon does"
)


class Repo:
    """A repository and its key, and the house that writes into it."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        self.address = str(folder / "repository")
        self.key = str(folder / "key")
        Path(self.key).write_text("secret\n")
        self.where = {"repository": self.address, "password_file": self.key}
        self.options = ("--repo", self.address, "--password-file", self.key)
        self.client = house.client.backups

    def result(self, operation: Any) -> dict[str, Any]:
        found = self.house.client.operations.result(operation["id"], timeout=PATIENCE)
        assert isinstance(found, dict)
        return found

    def backup(self, name: str) -> dict[str, Any]:
        return self.result(self.client.create(name, **self.where))


@pytest.fixture
def repo(house: House, tmp_path: Path) -> Iterator[Repo]:
    yield Repo(house, tmp_path)


@stores
def test_replies_are_what_the_document_says(repo: Repo) -> None:
    openapi = document(repo.house)
    repo.house.launch("web", settings={"log": "one|two"})
    call = repo.house.client.transport.call
    made = call("POST", "/v1/backups", {"instance": "web", **repo.where})
    check(openapi, "post", "/v1/backups", 202, made)
    told = repo.result(made)
    query = f"?repository={repo.address}&password_file={repo.key}"
    listed = call("GET", f"/v1/backups{query}")
    check(openapi, "get", "/v1/backups", 200, listed)
    (row,) = listed["items"]
    assert (row["id"], row["instance"], row["engine"]) == (told["backup"], "web", "lxc")
    assert (row["consistency"], row["size"]) == ("frozen", told["size"])
    from triune.sdk import types

    assert set(types.BackupRow.__annotations__) == set(Backup.model_fields)
    for path in ("/v1/backups/verify",):
        check(openapi, "post", path, 202, call("POST", path, repo.where))


@stores
def test_a_round(repo: Repo) -> None:
    repo.house.launch("web", settings={"log": "one|two"})
    first, second = repo.backup("web"), repo.backup("web")
    assert repo.house.engine("lxc").get("web").instance.state.value == "running"
    assert b"".join(repo.client.content("web", "/log", **repo.where)) == b"one\ntwo"
    result = repo.result(repo.client.restore(first["backup"], "web2", start=True, **repo.where))
    assert (result["name"], result["lost"]) == ("web2", [])
    detail = repo.house.client.instances.get("web2")
    assert (detail["state"], detail["image"], detail["settings"]) == ("running", "debian/12", {"log": "one|two"})
    assert detail["addresses"] == result["addresses"] != []
    assert repo.result(repo.client.verify(**repo.where))["ok"]
    gone = repo.result(repo.client.prune({"last": 1}, **repo.where))["removed"]
    assert [one["backup"] for one in gone] == [first["backup"]]
    assert [row["id"] for row in repo.client.list(**repo.where)] == [second["backup"]]
    repo.result(repo.client.remove(second["backup"], **repo.where))
    assert repo.client.list(**repo.where) == []


@stores
def test_limits_set_since_the_launch_come_back(repo: Repo) -> None:
    """Those of the network and the ones an engine forgets are kept by the daemon alone."""
    repo.house.launch("web", memory="512MiB")
    wanted = {"net.in": "100Mbit/s", "iops.read": 500, "memory": "256MiB", "pids": 77}
    repo.result(repo.house.client.instances.set_limits("web", wanted))
    made = repo.backup("web")
    repo.result(repo.client.restore(made["backup"], "web2", start=True, **repo.where))
    found = repo.house.client.instances.get("web2")["limits"]
    assert found == repo.house.client.instances.get("web")["limits"]
    assert (found["net.in"], found["iops.read"]) == (100_000_000, 500)


@stores
def test_the_command_line(repo: Repo, tmp_path: Path) -> None:
    repo.house.launch("web", settings={"log": "one"})
    repo.house.launch("db", "docker")
    run = repo.house.run
    done = run("backup", "create", "--all", *repo.options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["db", "web"]
    rows = json.loads(run("backup", "list", *repo.options, "--format", "json").stdout)
    assert {row["instance"] for row in rows} == {"web", "db"}
    assert run("backup", "cat", "web", "/log", *repo.options).stdout == b"one"
    told = json.loads(run("backup", "verify", *repo.options, "--format", "json").stdout)
    assert (told["ok"], told["backups"], told["damaged"]) == (True, 2, [])
    (tmp_path / "out").mkdir()
    done = run("backup", "extract", "web", "/log", "--to", str(tmp_path / "out"), *repo.options)
    assert (done.returncode, (tmp_path / "out/log").read_text()) == (0, "one"), done.stderr
    done = run("backup", "extract", "web", "/log", "--to", str(tmp_path / "of it"), *repo.options)
    assert (done.returncode, f"mkdir -p '{tmp_path}/of it'".encode() in done.stderr) == (3, True)
    done = run("backup", "restore", "web", "--name", "web3", *repo.options)
    assert (done.returncode, b"web3 is restored, stopped" in done.stdout) == (0, True), done.stderr
    done = run("backup", "prune", "--keep-last", "1", *repo.options, "--yes")
    assert (done.returncode, done.stdout) == (0, b"0 backups are removed\n")


@stores
def test_what_fails_leaves_nothing(repo: Repo) -> None:
    repo.house.launch("web")
    backup = repo.backup("web")["backup"]
    engine = repo.house.engine("lxc")
    engine.failures["lxc-restored"] = Failed("broken", "it broke", hint="Mend it.")
    with pytest.raises(Failed, match="it broke"):
        repo.result(repo.client.restore(backup, "web2", **repo.where))
    engine.failures.clear()
    assert "web2" not in {row["name"] for row in repo.house.client.instances.list()[0]}
    repo.result(repo.client.restore(backup, "web2", **repo.where))
    engine.failures["lxc-archive"] = Failed("broken", "it broke", hint="Mend it.")
    with pytest.raises(Failed, match="it broke"):
        repo.backup("web")
    engine.failures.clear()
    assert [row["id"] for row in repo.client.list(**repo.where)] == [backup]
    assert engine.get("web").instance.state.value == "running"


@stores
def test_wrong_words(repo: Repo, tmp_path: Path) -> None:
    repo.house.launch("web")
    with pytest.raises(NotFound, match="no backup repository"):
        repo.client.list(**repo.where)
    repo.backup("web")
    (tmp_path / "wrong").write_text("wrong\n")
    with pytest.raises(Denied, match="does not open"):
        repo.client.list(repository=repo.address, password_file=str(tmp_path / "wrong"))
    with pytest.raises(NotFound, match="no backup 'nobody'"):
        repo.result(repo.client.restore("nobody", "web2", **repo.where))
    with pytest.raises(NotFound, match="no file /none"):
        b"".join(repo.client.content("web", "/none", **repo.where))
    with pytest.raises(Invalid, match="not an absolute path"):
        b"".join(repo.client.content("web", "/../etc/passwd", **repo.where))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(Invalid, match="not empty"):
        repo.result(repo.client.create("web", repository=str(tmp_path / "full"), password_file=repo.key))


def test_what_is_refused_at_once(repo: Repo) -> None:
    repo.house.launch("web")
    with pytest.raises(Invalid, match="no backup repository is named"):
        repo.client.create("web")
    with pytest.raises(Invalid, match="no place for a repository"):
        repo.client.create("web", repository="backups")
    with pytest.raises(NotFound, match="nobody"):
        repo.client.create("nobody", **repo.where)
    with pytest.raises(Conflict, match="'web' already"):
        repo.client.restore("web", "web", **repo.where)
    with pytest.raises(Invalid, match="nothing is said"):
        repo.client.prune({}, **repo.where)
    with pytest.raises(NotFound, match="there is no folder"):
        repo.client.extract("web", ["/log"], "/no/such/folder", **repo.where)
    engine = repo.house.engine("lxc")
    facet, engine.archiving = engine.archiving, None
    try:
        with pytest.raises(Unsupported, match="can't do that here"):
            repo.client.create("web", **repo.where)
    finally:
        engine.archiving = facet


def test_schedules(repo: Repo) -> None:
    repo.house.launch("web")
    run = repo.house.run
    done = run("backup", "schedule", "web", "--at", "03:00", "--keep-daily", "7", *repo.options)
    assert (done.returncode, b"web-backup-0300" in done.stdout) == (0, True), done.stderr
    (row,) = repo.house.client.schedules.list("backup")
    assert (row["keep"], row["options"]["repository"]) == ({"daily": 7}, repo.address)
    assert b"daily=7" in run("backup", "schedule", "list").stdout
    assert run("backup", "schedule", "rm", "web-backup-0300").returncode == 0
    assert b"triune backup schedule list" in run("backup", "schedule", "rm", "web-backup-0300").stderr
    assert repo.house.client.schedules.list("backup") == []
    with pytest.raises(Invalid, match="not kept by"):
        repo.house.client.schedules.create("web", every="1d", keep={"minutely": 1}, action="backup", **repo.where)


def test_a_schedule_of_every_instance(repo: Repo) -> None:
    run, schedules = repo.house.run, repo.house.client.schedules
    done = run("backup", "schedule", "--all", "--at", "03:00", "--keep-daily", "7", *repo.options)
    assert done.stdout == b"schedule all-backup-0300: a backup of every instance daily at 03:00\n", done.stderr
    (row,) = schedules.list("backup")
    assert (row["subject"], row["keep"]) == ("", {"daily": 7})
    assert b" all " in run("backup", "schedule", "list").stdout
    assert schedules.create(None, every="1d", action="backup", **repo.where)["name"] == "all-backup-1d"
    for words in (("--every", "1d"), ("web", "--all", "--every", "1d")):
        wrong = run("backup", "schedule", *words, *repo.options)
        assert (wrong.returncode, b"name the instance to back up, or say --all" in wrong.stderr) == (2, True)
    assert b"--all" in run("backup", "schedule", "add", "--help").stdout
    assert b"list" in run("backup", "schedule", "--help").stdout
    with pytest.raises(Invalid, match="snapshots are scheduled for one instance each"):
        schedules.create(None, every="1d")
    with pytest.raises(Invalid, match="no backup repository"):
        schedules.create(None, every="2d", action="backup")
    repo.house.launch("all")
    gone = repo.house.client.instances.remove("all", force=True)
    repo.house.client.operations.result(gone["id"], timeout=PATIENCE)
    assert len(schedules.list("backup")) == 2, "an instance that goes takes only schedules of its own along"


def ended(repo: Repo, schedule: str) -> Operation:
    """A run of it, as the daemon begins one."""
    triune = repo.house.triune
    begun = triune.backups.scheduled(triune.schedules.get(schedule))
    return triune.operations.wait(begun.id, PATIENCE)


@stores
def test_a_run_for_every_instance_takes_what_is_there_then(repo: Repo) -> None:
    repo.house.launch("web")
    before = {one.id for one in repo.house.triune.operations.list()}
    made = repo.house.client.schedules.create(None, every="1d", keep={"last": 1}, action="backup", **repo.where)
    repo.house.launch("later", "docker")
    first = ended(repo, made["name"])
    assert (first.state.value, first.kind, sorted(first.result["backups"])) == ("done", "backup-all", ["later", "web"])
    second = ended(repo, made["name"])
    assert sorted(row["id"] for row in repo.client.list(**repo.where)) == sorted(second.result["backups"].values())
    begun = [one for one in repo.house.triune.operations.list() if one.id not in before]
    kinds = [one.resource for one in begun if one.kind == "backup"]
    assert kinds == ["instances/web", "instances/later"] * 2, "ordinary operations of their own"


@stores
def test_one_that_fails_keeps_no_other_from_its_turn(repo: Repo) -> None:
    repo.house.launch("db", "docker")
    repo.house.launch("web")
    made = repo.house.client.schedules.create(None, every="1d", action="backup", **repo.where)
    repo.house.engine("docker").failures["docker-archive"] = Failed("broken", "it broke", hint="Mend it.")
    run = ended(repo, made["name"])
    repo.house.engine("docker").failures.clear()
    assert (run.state.value, run.error["code"]) == ("failed", "backups_failed")
    assert run.error["message"] == "1 of 2 instances could not be backed up: db: it broke"
    assert [row["instance"] for row in repo.client.list(**repo.where)] == ["web"]
    assert run.error["details"]["failed"] == {"db": "it broke"}


@stores
def test_one_that_is_busy_gets_its_turn_last(repo: Repo) -> None:
    for name in ("a", "b"):
        repo.house.launch(name)
    made = repo.house.client.schedules.create(None, every="1d", action="backup", **repo.where)
    locks, holder = repo.house.triune.operations.locks, Holder("someone", "stop")
    locks.acquire(["instances/a"], holder)
    triune = repo.house.triune
    begun = triune.backups.scheduled(triune.schedules.get(made["name"]))
    with pytest.raises(Conflict, match="busy"):
        triune.backups.scheduled(triune.schedules.get(made["name"]))
    until(lambda: triune.operations.get(begun.id).text == "waiting for a")
    locks.release(holder)
    run = triune.operations.wait(begun.id, PATIENCE)
    assert (run.state.value, list(run.result["backups"])) == ("done", ["b", "a"])


@stores
def test_cancelling_the_whole_cancels_the_part(repo: Repo) -> None:
    repo.house.launch("web")
    made = repo.house.client.schedules.create(None, every="1d", action="backup", **repo.where)
    triune = repo.house.triune
    with repo.house.held(repo.house.engine("lxc").archiving, "open") as archive:
        begun = triune.backups.scheduled(triune.schedules.get(made["name"]))
        assert archive.begun.wait(PATIENCE)
        triune.operations.cancel(begun.id)
        assert triune.operations.wait(begun.id, PATIENCE).state.value == "cancelled"
        part = next(one for one in triune.operations.list() if one.kind == "backup")
        assert triune.operations.wait(part.id, PATIENCE).state.value == "cancelled"


@stores
def test_a_run_of_a_schedule_lets_old_ones_go(repo: Repo) -> None:
    repo.house.launch("web")
    repo.backup("web")
    made = repo.house.client.schedules.create("web", every="1d", keep={"last": 1}, action="backup", **repo.where)
    triune = repo.house.triune
    operation = triune.backups.scheduled(triune.schedules.get(made["name"]))
    assert triune.operations.wait(operation.id, PATIENCE).state.value == "done"
    assert len(repo.client.list(**repo.where)) == 1
    repo.house.client.schedules.remove(made["name"])
