"""The one network: nine directions by name, and all of them again after others have restarted or flushed things."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.daemon import BRIDGE, CACHE, DOMAIN, Daemon
from tests.live.host_daemons import restart_dockerd, restart_libvirtd, saved_ruleset
from tests.live.system_fixtures import ENGINES, IMAGE, built_image

pytestmark = [
    pytest.mark.alone,
    pytest.mark.live,
    pytest.mark.net,
    pytest.mark.kvm,
    pytest.mark.lxc,
    pytest.mark.docker,
]

NAMES = {engine: f"tdir-{engine}" for engine in ENGINES}
SERVE = "mkdir -p /srv/www && hostname > /srv/www/index.html && exec busybox httpd -f -p 80 -h /srv/www"
PORTS = {engine: 18880 + number for number, engine in enumerate(ENGINES)}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CACHE / "data") as daemon:
        built_image(daemon)
        daemon.remove_all("tdir-")
        try:
            for engine, name in NAMES.items():
                options = ["--publish", f"{PORTS[engine]}:80"]
                if engine == "docker":
                    options += ["--set", "restart=unless-stopped"]
                daemon.launch(IMAGE, name, engine, *options, command=("sh", "-c", SERVE))
            yield daemon
        finally:
            daemon.remove_all("tdir-")
        daemon.stop()


def fetch_inside(daemon: Daemon, name: str, url: str) -> str:
    # Not by wget's own -T: Debian 12's busybox ends with a segmentation fault there.
    done = daemon.run("exec", name, "--", "timeout", "5", "busybox", "wget", "-qO-", url, check=False)
    return done.stdout.decode().strip() if done.returncode == 0 else f"failed: {done.stderr.decode().strip()}"


def fetch_host(url: str) -> str:
    done = subprocess.run(["curl", "-sS", "-m", "3", url], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr.strip()}"


def picture(daemon: Daemon) -> dict[tuple[str, str], str]:
    """Who gets whose page: nine directions between instances, the host by name, and the published ports."""
    seen: dict[tuple[str, str], str] = {}
    for source in NAMES.values():
        for target in NAMES.values():
            seen[source, target] = fetch_inside(daemon, source, f"http://{target}/")
    for engine, target in NAMES.items():
        seen["host", target] = fetch_host(f"http://{target}/")
        seen["published", target] = fetch_host(f"http://127.0.0.1:{PORTS[engine]}/")
    return seen


def expect_all(daemon: Daemon, patience: float = 20) -> None:
    """Every page arrives, and it is the right one."""
    wanted = {
        (source, target): target for source in ("host", "published", *NAMES.values()) for target in NAMES.values()
    }
    deadline = time.monotonic() + patience
    while (seen := picture(daemon)) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    assert seen == wanted


def test_all_directions_by_name(daemon: Daemon) -> None:
    expect_all(daemon)


@pytest.mark.parametrize("engine", ENGINES)
def test_names_resolve_with_and_without_the_domain_and_backwards(daemon: Daemon, engine: str) -> None:
    name = NAMES[engine]
    (address,) = daemon.names()[name]["addresses"]
    for source in NAMES.values():
        for asked in (name, f"{name}.{DOMAIN}"):
            assert address in daemon.exec(source, "getent", "ahostsv4", asked)
        assert name in daemon.exec(source, "getent", "hosts", address)


def after_nothing(daemon: Daemon) -> None:
    pass


def after_docker(daemon: Daemon) -> None:
    restart_dockerd()


def after_libvirtd(daemon: Daemon) -> None:
    restart_libvirtd()


def after_daemon(daemon: Daemon) -> None:
    daemon.stop()
    expect_without_daemon(daemon)
    daemon.start()


def after_daemon_killed(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def after_iptables_restore(daemon: Daemon) -> None:
    saved = subprocess.run(["iptables-save"], capture_output=True, check=True).stdout
    without = b"\n".join(line for line in saved.splitlines() if b"triune" not in line) + b"\n"
    subprocess.run(["iptables-restore"], input=without, check=True)


def after_filter_flush(daemon: Daemon) -> None:
    subprocess.run(["iptables", "-F", "DOCKER-USER"], check=True)


def after_our_table_is_gone(daemon: Daemon) -> None:
    subprocess.run(["nft", "delete", "table", "ip", "triune_test"], check=True)


def after_flush_and_docker_restart(daemon: Daemon) -> None:
    with saved_ruleset():
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        restart_dockerd()


def after_bridge_filtering(daemon: Daemon) -> None:
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")
    subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)


def after_name_server_died(daemon: Daemon) -> None:
    for pid in (p for p in Path("/proc").iterdir() if p.name.isdigit()):
        try:
            argv = (pid / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argv[0].endswith(b"dnsmasq") and any(BRIDGE.encode() in word for word in argv):
            subprocess.run(["kill", "-9", pid.name], check=True)
            return
    pytest.fail("no dnsmasq of ours was running")


def expect_without_daemon(daemon: Daemon) -> None:
    """Instances and network go on while the daemon is away."""
    for engine, name in NAMES.items():
        assert fetch_host(f"http://{name}/") == name
        assert fetch_host(f"http://127.0.0.1:{PORTS[engine]}/") == name


@pytest.mark.parametrize(
    "disturb",
    [
        after_daemon,
        after_daemon_killed,
        after_iptables_restore,
        after_filter_flush,
        after_our_table_is_gone,
        after_bridge_filtering,
        after_name_server_died,
        after_libvirtd,
        after_docker,
        after_flush_and_docker_restart,
    ],
)
def test_all_directions_again(daemon: Daemon, disturb: Callable[[Daemon], None]) -> None:
    disturb(daemon)
    expect_all(daemon)


def test_docker_that_comes_later(daemon: Daemon) -> None:
    """Our network is up first, without Docker; when Docker comes, its instances join."""
    from tests.live.host_daemons import dockerd_stopped

    with dockerd_stopped():
        daemon.stop()
        daemon.start()
        listed = daemon.run("list", "--format", "json")
        assert b"docker" in listed.stderr
        assert fetch_inside(daemon, NAMES["lxc"], f"http://{NAMES['kvm']}/") == NAMES["kvm"]
    expect_all(daemon, patience=40)
