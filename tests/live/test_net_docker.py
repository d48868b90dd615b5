"""The network beside a real dockerd of its own, on a private host: before it, after it, restarted, stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.netlab import Guest, eventually, private_host, sh
from tests.live.test_net_private import BRIDGE, TABLE, Lab, all_ways
from triune.engines.docker.engine import DockerEngine
from triune.services.networks import Networks, NetworkSettings

DOCKERD = shutil.which("dockerd", path="/usr/sbin:/usr/bin")

pytestmark = [
    pytest.mark.live,
    pytest.mark.net,
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(DOCKERD is None, reason="needs dockerd"),
]


class Dockerd:
    """A daemon of its own, in the namespace of the thread that starts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert DOCKERD is not None
        # Where it finds forwarding off, Docker turns it on and everything else off: FORWARD policy DROP.
        sh("sysctl", "-qw", "net.ipv4.ip_forward=0")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [DOCKERD, "--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec"),
                 "--pidfile", str(self.folder / "pid"), "--host", f"unix://{self.socket}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        eventually(lambda: self.docker("version", "--format", "{{.Server.Version}}", check=False), within=30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def docker(self, *words: str, check: bool = True) -> str:
        return sh("/usr/bin/docker", "--host", f"unix://{self.socket}", *words, check=check).strip()


class DockerLab(Lab):
    """The lab with the real Docker engine as the only one."""

    def __init__(self, folder: Path) -> None:
        self.dockerd = Dockerd(folder)
        super().__init__(folder)

    def service(self, lease_seconds: int = 3600) -> Networks:
        settings = NetworkSettings(
            name=BRIDGE,
            table=TABLE,
            folder=self.folder / "net",
            hosts_file=self.hosts,
            resolv_file=self.resolv,
            lease_seconds=lease_seconds,
        )
        return Networks(self.store, {"docker": DockerEngine(f"unix://{self.dockerd.socket}")}, settings)

    def close(self) -> None:
        super().close()
        self.dockerd.stop()


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    with private_host():
        yield


@pytest.fixture
def lab() -> Iterator[DockerLab]:
    folder = Path(tempfile.mkdtemp(prefix="tnet-"))
    folder.chmod(0o755)
    lab = DockerLab(folder)
    try:
        yield lab
    finally:
        lab.close()
        sh("ip", "link", "del", "docker0", check=False)
        sh("nft", "flush", "ruleset")
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if str(folder) in mount:
                sh("umount", mount.split()[1], check=False)
        shutil.rmtree(folder)


def pair_of(lab: Lab) -> tuple[Guest, Guest]:
    one, other = lab.guest("one"), lab.guest("other")
    one.serve("one", 80)
    other.serve("other", 80)
    lab.outside.serve("outside", 7000)
    lab.publish("one", "8080:80")
    return one, other


def works(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    eventually(lambda: all(all_ways(lab, *pair).values()), within=30)


def known(lab: DockerLab) -> bool:
    return BRIDGE in lab.dockerd.docker("network", "ls", "--format", "{{.Name}}").splitlines()


def test_docker_installed_after_us_then_restarted_and_stopped(lab: DockerLab) -> None:
    lab.networks.start()
    assert [problem.code for problem in lab.networks.problems()] == ["engine_unreachable"]
    pair = pair_of(lab)
    works(lab, pair)
    lab.dockerd.start()
    assert "-P FORWARD DROP" in sh("iptables-nft", "-S")
    works(lab, pair)
    lab.networks.engine_up()
    assert known(lab)
    assert lab.networks.problems() == []
    works(lab, pair)
    lab.dockerd.restart()
    works(lab, pair)
    lab.dockerd.stop()
    works(lab, pair)
    # A reboot's worth: Docker comes first and finds the bridge gone.
    lab.networks.close()
    sh("nft", "flush", "ruleset")
    lab.dockerd.start()
    works_after = lab.service()
    lab.networks = works_after
    works_after.start()
    works(lab, pair)


def test_docker_first_then_us_and_its_network_removed_by_somebody(lab: DockerLab) -> None:
    lab.dockerd.start()
    lab.networks.start()
    assert lab.networks.problems() == []
    assert known(lab)
    pair = pair_of(lab)
    works(lab, pair)
    lab.dockerd.docker("network", "rm", BRIDGE)
    assert eventually(lambda: known(lab), within=10) < 3
    works(lab, pair)


def test_removal_takes_dockers_network_along(lab: DockerLab) -> None:
    lab.dockerd.start()
    before = sh("iptables-nft", "-S")
    lab.networks.start()
    assert known(lab)
    lab.networks.remove()
    assert not known(lab)
    assert sh("iptables-nft", "-S") == before
    assert BRIDGE not in sh("ip", "-br", "link")


def test_dockerd_that_makes_the_bridge_itself_after_a_reboot(lab: DockerLab) -> None:
    lab.dockerd.start()
    lab.networks.start()
    wanted = sh("cat", f"/sys/class/net/{BRIDGE}/address", check=False)
    lab.networks.close()
    lab.dockerd.stop()
    sh("ip", "link", "del", BRIDGE)
    lab.dockerd.start()
    assert BRIDGE in sh("ip", "-br", "link"), "dockerd made it"
    lab.networks = lab.service()
    lab.networks.start()
    assert sh("cat", f"/sys/class/net/{BRIDGE}/address", check=False) == wanted
    works(lab, pair_of(lab))
