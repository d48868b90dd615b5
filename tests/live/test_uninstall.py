"""`triune uninstall` on real engines: instances go on, and nothing of ours is left but what they need."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon
from tests.live.netlab import eventually, sh
from tests.live.system_fixtures import IMAGE, data_folder, separate_daemon
from tests.patience import PATIENCE
from triune.host import net, nft, tc
from triune.host.iptables import comment
from triune.host.setup.service import COMMAND

pytestmark = [pytest.mark.live, pytest.mark.net, pytest.mark.lxc, pytest.mark.docker]

PREFIX, BRIDGE, TABLE = "tuni-", "tuni0", "triune_tuni"
LXC, DOCKER = PREFIX + "lxc", PREFIX + "docker"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One of its own, also where the test has taken it away."""
    with separate_daemon("uni", PREFIX, 229) as made:
        yield made
        if made.process and made.process.poll() is not None:
            data_folder(made.data.name)  # the way to the images went with the data
            made.start()


def inits() -> tuple[str, str]:
    """The first processes of both instances, as their engines tell."""
    lxc = sh("lxc-info", "-n", LXC, "-p", "-H").strip()
    docker = sh("docker", "inspect", "-f", "{{.State.Pid}}", DOCKER).strip()
    assert "0" not in (lxc, docker)
    return lxc, docker


def others_rules() -> list[str]:
    """Rules about our bridge that we put into others' firewalls."""
    listed = sh("nft", "list", "ruleset").splitlines() + sh("iptables-save", check=False).splitlines()
    return [line.strip() for line in listed if BRIDGE in line and "triune" in line.lower()]


def test_instances_go_on_and_nothing_of_ours_is_left(daemon: Daemon) -> None:
    command = Path(COMMAND).readlink() if Path(COMMAND).is_symlink() else None
    daemon.launch(IMAGE, LXC, "lxc", "--set", "net.out=40Mbit/s", "--publish", "18087:80")
    daemon.launch(IMAGE, DOCKER, "docker", command=("sleep", "infinity"))
    addresses = {name: row["addresses"][0] for name, row in daemon.names().items() if name.startswith(PREFIX)}
    before = inits()
    # As where Docker's policy is DROP, which is so on some hosts only.
    sh("iptables", "-I", "DOCKER-USER", "-i", BRIDGE, "-m", "comment", "--comment", comment(BRIDGE), "-j", "ACCEPT")
    assert others_rules()
    limited = [name for name, index in tc.helpers().items() if index in {port.index for port in net.ports(BRIDGE)}]
    assert limited
    assert TABLE in Path("/etc/hosts").read_text()

    refused = daemon.run("uninstall", "--data", "--yes", check=False)
    assert (refused.returncode, f"that of {DOCKER}, {LXC}".encode() in refused.stderr) == (4, True), refused.stderr
    asked = daemon.run("uninstall", check=False)
    assert (asked.returncode, b"--yes" in asked.stderr) == (2, True)
    assert daemon.names()[LXC]["state"] == "running", "what is refused changes nothing"

    done = daemon.run("uninstall", "--yes")
    said = done.stdout.decode()
    assert f"the bridge {BRIDGE} stays until the host restarts, for {DOCKER}, {LXC} are in it" in said, done
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) == 0
    assert not [one for one in nft.ruleset() if one.get("table", {}).get("name") == TABLE]
    assert not (daemon.data / "network").exists()
    assert f"--interface={BRIDGE}" not in sh("pgrep", "-af", "dnsmasq", check=False)
    assert TABLE not in Path("/etc/hosts").read_text()
    assert not set(limited) & set(tc.helpers())
    assert others_rules() == []
    assert (Path(COMMAND).readlink() if Path(COMMAND).is_symlink() else None) == command, "it is another daemon's"

    assert inits() == before, "neither was restarted"
    assert len(net.ports(BRIDGE)) == 2
    asks = f"exec 3<>/dev/tcp/{addresses[DOCKER]}/9 || true"
    reached = sh("lxc-attach", "-n", LXC, "--", "bash", "-c", f"timeout 5 bash -c '{asks}' 2>&1", check=False)
    assert "refused" in reached, "each still reaches the other"

    daemon.run("uninstall", "--yes")
    daemon.start()
    states = {name: row["state"] for name, row in daemon.names().items() if name.startswith(PREFIX)}
    assert states == {LXC: "running", DOCKER: "running"}, "the data was there to come back to"
    assert inits() == before
    assert TABLE in Path("/etc/hosts").read_text()

    daemon.remove_all(PREFIX)
    daemon.run("uninstall", "--data", "--yes")
    assert net.link(BRIDGE) is None
    assert BRIDGE not in sh("docker", "network", "ls", "--format", "{{.Name}}").split()
    assert {path.name for path in daemon.data.iterdir()} <= {"triune.toml", "daemon.log", "backup.key"}
    eventually(lambda: subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True).returncode != 0, 5)
