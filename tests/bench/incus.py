"""Incus for a side-by-side figure: a daemon of its own beside whatever the host has, gone afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.live.daemon import CACHE
from triune.host.run import Result, environment, run

INCUSD = Path("/usr/libexec/incus/incusd")
HOME = CACHE / "incus"
BRIDGE = "triteI0"
# Given, because Incus' own search for a free subnet fails on hosts where it cannot ping.
GATEWAY = "10.97.0.1/24"
_IMAGE = "tbench"


class Incus:
    """The client of one running incusd."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {"INCUS_DIR": str(home / "state"), "INCUS_CONF": str(home / "client")}

    def run(self, *argv: str, check: bool = True) -> Result:
        """Run `incus …` against it."""
        return run(["incus", *argv], env=self.env, check=check, timeout=300)

    def launch(self, name: str) -> None:
        """Create an unprivileged container from the cached image and return once it runs."""
        self.run("launch", _IMAGE, name)

    def crowd(self, count: int) -> None:
        """So many stopped containers without a root."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: self.run("init", "--empty", f"crowd{number}"), range(count)))

    def remove(self, name: str) -> None:
        """Kill and delete it."""
        self.run("delete", "--force", name)

    def prepare(self, tree: Path) -> None:
        """Make a dir pool, a bridge and the default profile, and import the root tree as the image."""
        self.run("storage", "create", "default", "dir")
        # No rules of its own in the host's firewall: a launch needs none.
        options = ("ipv4.nat=false", "ipv4.firewall=false", "ipv6.address=none")
        self.run("network", "create", BRIDGE, "--type=bridge", f"ipv4.address={GATEWAY}", *options)
        self.run("profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
        self.run("profile", "device", "add", "default", "eth0", "nic", f"network={BRIDGE}", "name=eth0")
        self._import(tree)

    def _import(self, tree: Path) -> None:
        facts = {"architecture": run(["uname", "-m"]).text.strip(), "creation_date": int(time.time())}
        (self.home / "metadata.yaml").write_text(json.dumps(facts))
        parts = [self.home / "metadata.tar", self.home / "rootfs.tar"]
        run(["tar", "-C", self.home, "-cf", parts[0], "metadata.yaml"])
        # Not compressed: Incus unpacks it at each launch into a dir pool, and is to be measured at its quickest.
        run(["tar", "-C", tree, "--numeric-owner", "--xattrs", "--one-file-system", "-cf", parts[1], "."], timeout=300)
        self.run("image", "import", *map(str, parts), "--alias", _IMAGE)
        for part in parts:
            part.unlink()

    def clear(self) -> None:
        """Delete every instance and the bridge, as far as the daemon answers."""
        listed = self.run("list", "--format", "json", check=False)
        names = [instance["name"] for instance in json.loads(listed.stdout or b"[]")]
        for begin in range(0, len(names), 100):
            self.run("delete", "--force", *names[begin : begin + 100], check=False)
        self.run("profile", "device", "remove", "default", "eth0", check=False)
        self.run("network", "delete", BRIDGE, check=False)


def installed() -> bool:
    """Whether this host has Incus' daemon and client."""
    return INCUSD.exists() and shutil.which("incus") is not None


def version() -> str:
    """The client's version."""
    return run(["incus", "--version"]).text.strip()


@contextmanager
def incus(tree: Path) -> Iterator[Incus]:
    """A running Incus that has this root tree as a cached image; all of it is removed at the end."""
    _sweep()
    client = Incus(HOME)
    for folder in (client.env["INCUS_DIR"], client.env["INCUS_CONF"]):
        Path(folder).mkdir(parents=True)
    with (HOME / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            [INCUSD],
            env=environment(client.env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt at the terminal must leave it alive until it is cleared
        )
    try:
        client.run("admin", "waitready", "--timeout=60")
        client.prepare(tree)
        yield client
    finally:
        try:
            client.clear()
        finally:
            _end(daemon)
            _sweep()


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(10)


def _mounts() -> list[str]:
    """Mount points under HOME, the innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if Path(point).is_relative_to(HOME)]


def _sweep() -> None:
    """Remove what is left on disk, also by a run that was killed."""
    for point in _mounts():
        run(["umount", point])
    if Path("/sys/class/net", BRIDGE).exists():
        run(["ip", "link", "delete", BRIDGE])
    if HOME.exists():
        shutil.rmtree(HOME)
