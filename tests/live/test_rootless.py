"""The engine `rootless` on a real rootless Docker daemon: one with the rest, and held tighter."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import Daemon
from tests.live.netlab import eventually
from tests.live.rootless_fixtures import PLACE, rootless_docker, started
from tests.live.system_fixtures import IMAGE, separate_daemon
from tests.patience import PATIENCE
from triune.host import net, rootless

pytestmark = [pytest.mark.live, pytest.mark.docker, pytest.mark.net]

PREFIX = "trtl-"
APP, ROOT = PREFIX + "app", PREFIX + "root"
PORT = 18231
SERVE = "mkdir -p /srv/www && hostname > /srv/www/index.html && exec busybox httpd -f -p 80 -h /srv/www"
SLEEP = ("sleep", "infinity")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with rootless_docker() as place, separate_daemon("rtl", PREFIX, 231, place.socket) as made:
        made.launch(IMAGE, APP, "rootless", "--publish", f"{PORT}:80", command=("sh", "-c", SERVE))
        made.launch(IMAGE, ROOT, "docker", command=("sh", "-c", SERVE))
        yield made


def address(daemon: Daemon, name: str) -> str:
    return str(daemon.names()[name]["addresses"][0])


def fetched(daemon: Daemon, name: str, url: str) -> str:
    done = daemon.run("exec", name, "--", "timeout", "5", "busybox", "wget", "-qO-", url, check=False)
    return done.stdout.decode().strip()


def by_host(url: str) -> str:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "5", url], capture_output=True, text=True, check=False
    ).stdout.strip()


def test_nothing_of_it_is_root(daemon: Daemon) -> None:
    user = pwd.getpwnam(PLACE.user)
    assert Path(f"/proc/{rootless.daemon(PLACE.socket)}").stat().st_uid == user.pw_uid
    assert daemon.exec(APP, "id", "-u").strip() == "0"
    inside, outside, count = daemon.exec(APP, "cat", "/proc/self/uid_map").split()[:3]
    assert (inside, int(outside), count) == ("0", user.pw_uid, "1")


def test_its_state_goes_with_it(daemon: Daemon) -> None:
    assert (PLACE.runtime / "rootlesskit/child_pid").exists(), "a daemon that is killed would leave it in /tmp"


def test_it_is_one_with_the_rest(daemon: Daemon) -> None:
    row = daemon.names()[APP]
    assert (row["engine"], row["state"], row["image"]) == ("rootless", "running", IMAGE)
    shown = daemon.json("show", APP)
    assert shown["isolation"]["user_namespace"] is True
    assert f"{PORT}:80" in str(shown)
    done = daemon.run("launch", IMAGE, APP, "--engine", "docker", check=False)
    assert b"already (rootless, running)" in done.stderr
    done = daemon.run("launch", IMAGE, ROOT, "--engine", "rootless", check=False)
    assert b"already (docker, running)" in done.stderr


def test_names_addresses_and_ports(daemon: Daemon) -> None:
    eventually(lambda: by_host(f"http://{address(daemon, APP)}/") == APP)
    assert by_host(f"http://{APP}/") == APP
    assert by_host(f"http://127.0.0.1:{PORT}/") == APP
    assert fetched(daemon, ROOT, f"http://{APP}/") == APP
    assert fetched(daemon, APP, f"http://{ROOT}/") == ROOT
    # Its own published port, through the host.
    gateway = daemon.json("network", "list")[0]["gateway"]
    assert fetched(daemon, APP, f"http://{gateway}:{PORT}/") == APP


def test_two_of_them_reach_each_other(daemon: Daemon) -> None:
    other = PREFIX + "two"
    daemon.launch(IMAGE, other, "rootless", command=("sh", "-c", SERVE))
    eventually(lambda: fetched(daemon, APP, f"http://{other}/") == other)
    eventually(lambda: fetched(daemon, other, f"http://{APP}/") == APP)
    daemon.run("rm", other, "--force", "--yes")
    assert other not in daemon.names()


def test_its_life(daemon: Daemon, tmp_path: Path) -> None:
    name, new = PREFIX + "life", PREFIX + "new"
    daemon.launch(IMAGE, name, "rootless", command=("sh", "-c", "echo hello; exec sleep infinity"))
    assert daemon.run("logs", name).stdout.strip() == b"hello"
    (tmp_path / "in").write_text("a file\n")
    daemon.run("cp", str(tmp_path / "in"), f"{name}:/root/in")
    assert daemon.exec(name, "cat", "/root/in") == "a file\n"
    daemon.run("cp", f"{name}:/root/in", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "a file\n"
    held = address(daemon, name)
    daemon.run("stop", name, "--force", "--timeout", "1")
    assert daemon.names()[name]["state"] == "stopped"
    daemon.run("rename", name, new)
    daemon.run("start", new)
    assert address(daemon, new) == held
    assert daemon.exec(new, "cat", "/root/in") == "a file\n"
    daemon.run("rm", new, "--force", "--yes")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "pids-limit=64"), b"--set pids=64"),
        (("--set", "net.in=1Mbit/s"), b"can't limit net.in"),
        (("--network", "host"), b"a network of its own"),
        (("--volume", "/srv:/srv"), b"could not write to /srv"),
    ],
)
def test_what_it_cannot_do_is_refused(daemon: Daemon, options: tuple[str, ...], said: bytes) -> None:
    name = PREFIX + "not"
    done = daemon.run("launch", IMAGE, name, "--engine", "rootless", *options, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert name not in daemon.names()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("pause", APP), b"can't freeze"),
        (("set", APP, "net.out=1Mbit/s"), b"can't limit net.out"),
        (("snapshot", "create", APP, "one"), b"root engine"),
        (("clone", APP, PREFIX + "copy"), b"root engine"),
    ],
)
def test_changes_that_it_cannot_have_are_refused(daemon: Daemon, argv: tuple[str, ...], said: bytes) -> None:
    done = daemon.run(*argv, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert daemon.names()[APP]["state"] == "running"


def test_limits_hold_what_is_run_in_it_too(daemon: Daemon) -> None:
    name = PREFIX + "lim"
    options = ("--memory", "128MiB", "--cpus", "0.5", "--set", "pids=64")
    forks = "sleep 5; for i in $(seq 80); do sleep 1000 & done; sleep 1000"
    daemon.launch(IMAGE, name, "rootless", *options, command=("sh", "-c", forks))
    row = daemon.names()[name]
    assert (row["cpus"], row["memory_bytes"]) == (0.5, 128 << 20)
    done = daemon.run("exec", name, "--", "sh", "-c", "head -c 300M /dev/zero | tail >/dev/null", check=False)
    assert b"Killed" in done.stderr
    assert daemon.json("stats", name)[0]["pids"] > 0
    daemon.run("set", name, "memory=96MiB", "cpus=none")
    # Full as it is by then, it can be ended.
    eventually(lambda: b"Cannot fork" in daemon.run("logs", name).stdout + daemon.run("logs", name).stderr, PATIENCE)
    daemon.run("stop", name, "--force", "--timeout", "1")
    daemon.run("start", name)
    row = daemon.names()[name]
    assert (row["cpus"], row["memory_bytes"]) == (None, 96 << 20)
    assert "no-memory-limit" not in {one["rule"] for one in daemon.json("audit", name)["instances"][0]["findings"]}
    container = daemon.exec(name, "sed", "-n", "s,.*/triune-rootless/,,p", "/proc/self/cgroup").split()[0]
    assert list(Path("/sys/fs/cgroup").glob(f"**/triune-rootless/{container}"))
    daemon.run("rm", name, "--force", "--yes")
    assert not list(Path("/sys/fs/cgroup").glob(f"**/triune-rootless/{container}"))


def test_an_audit_finds_it_held_tighter(daemon: Daemon) -> None:
    reports: dict[str, Any] = {name: daemon.json("audit", name)["instances"][0] for name in (APP, ROOT)}
    assert reports[APP]["score"] > reports[ROOT]["score"]
    rules = {name: {found["rule"] for found in report["findings"]} for name, report in reports.items()}
    assert "root-of-the-host" in rules[ROOT] - rules[APP]
    assert reports[APP]["probe"]["ran"]
    assert [step for step in reports[APP]["probe"]["steps"] if step["contradiction"]] == []


def test_a_hardened_one_runs(daemon: Daemon) -> None:
    name = PREFIX + "hard"
    daemon.launch(IMAGE, name, "rootless", "--profile", "hardened", command=SLEEP)
    assert daemon.run("exec", name, "--", "touch", "/x", check=False).returncode != 0
    daemon.run("rm", name, "--force", "--yes")


def test_it_comes_back_after_its_daemon_was_killed(daemon: Daemon) -> None:
    pid = rootless.daemon(PLACE.socket)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), within=PATIENCE)
    assert daemon.names()[ROOT]["state"] == "running"
    started()
    eventually(lambda: APP in daemon.names(), within=PATIENCE)
    daemon.run("start", APP)
    eventually(lambda: by_host(f"http://{APP}/") == APP, within=PATIENCE)
    assert by_host(f"http://127.0.0.1:{PORT}/") == APP


def test_a_bridge_that_was_parted_is_joined_again(daemon: Daemon) -> None:
    bridge = daemon.json("network", "list")[0]["bridge"]
    net.delete_link(rootless.link_name(bridge))
    daemon.stop()
    daemon.start()
    eventually(lambda: by_host(f"http://{APP}/") == APP, within=PATIENCE)
