"""Real LXC for tests: an engine with its own state folder, a bridge, a root tree, and instances that are removed."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.patience import Awake
from triune.domain.errors import TriuneError
from triune.domain.image import TreeForm
from triune.domain.instance import InstanceSpec
from triune.domain.network import Network, Nic
from triune.domain.operation import Silent
from triune.engines.base import Command, LaunchPlan, Session, Terminal
from triune.engines.lxc.engine import LxcEngine
from triune.host import overlay

PREFIX = "tlxc-"
LXC_PATH = Path("/var/lib/lxc")
BRIDGE = "tlxcbr0"
NETWORK = Network(name="tlxc", bridge=BRIDGE, subnet="10.99.1.0/24", gateway="10.99.1.1", domain="tlxc.test")
_BUILT_TREE = Path("/var/tmp/triune-tests/tree")


def root_tree() -> Path:
    """A Debian root tree with systemd: $TRIUNE_TEST_TREE, or one built once with mmdebstrap."""
    if given := os.environ.get("TRIUNE_TEST_TREE"):
        return Path(given)
    if not (_BUILT_TREE / "sbin/init").exists():
        shutil.rmtree(_BUILT_TREE, ignore_errors=True)
        _BUILT_TREE.parent.mkdir(parents=True, exist_ok=True)
        packages = "systemd,systemd-sysv,dbus,iproute2,busybox-static"
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(_BUILT_TREE)], check=True
        )
    return _BUILT_TREE


class Lab:
    """One engine and what a test makes with it."""

    def __init__(self, state_dir: Path, tree: Path, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.engine = LxcEngine(LXC_PATH, state_dir=state_dir)
        self.state_dir = state_dir
        self.tree = tree
        self._next = 2

    def nic(self) -> Nic:
        number, self._next = self._next, self._next + 1
        return Nic(network=NETWORK, mac=f"02:00:0a:63:01:{number:02x}", address=f"10.99.1.{number}")

    def plan(self, name: str, **given: object) -> LaunchPlan:
        """A plan for a name with our prefix. Keywords: fields of InstanceSpec, `tree`, `nics`, `user_data`, `place`."""
        tree = given.pop("tree", self.tree)
        nics = given.pop("nics", ())
        form = TreeForm(path=tree, cloud_init=bool(given.pop("cloud_init", False)))  # type: ignore[arg-type]
        user_data = given.pop("user_data", None)
        place = given.pop("place", None)
        spec = InstanceSpec(name=self.prefix + name, image="debian/12", engine="lxc", network=None, **given)  # type: ignore[arg-type]
        return LaunchPlan(
            spec=spec,
            form=form,
            image="debian/12",
            created=datetime.now(UTC),
            nics=tuple(nics),  # type: ignore[arg-type]
            machine_id=secrets.token_hex(16),
            user_data=user_data,  # type: ignore[arg-type]
            pool=place,  # type: ignore[arg-type]
        )

    def launch(self, name: str, *, ready: bool = True, **given: object) -> str:
        plan = self.plan(name, **given)
        self.engine.create(plan, Silent())
        self.engine.start(plan.spec.name, Silent())
        if ready:
            self.engine.wait_ready(plan.spec.name, 60, Silent())
        return plan.spec.name

    def exec(self, name: str, *argv: str, stdin: bytes | None = None, **given: object) -> tuple[int, bytes, bytes]:
        """Run to the end; returns (code, stdout, stderr)."""
        assert self.engine.commands
        session = self.engine.commands.open(name, Command(argv=argv, **given))  # type: ignore[arg-type]
        try:
            if stdin is not None:
                session.write(stdin)
            session.close_stdin()
            out = drain(session)
            return session.wait(), out[1], out[2]
        finally:
            session.close()

    def clean(self) -> None:
        for folder in LXC_PATH.glob(f"{self.prefix}*"):
            try:
                self.engine.delete(folder.name)
            except TriuneError:
                subprocess.run(["lxc-stop", "-k", "-n", folder.name], check=False, capture_output=True)
                overlay.unmount(folder / "rootfs")
                shutil.rmtree(folder)


def drain(session: Session) -> dict[int, bytes]:
    out: dict[int, list[bytes]] = {1: [], 2: []}
    while (chunk := session.read()) is not None:
        out[chunk[0]].append(chunk[1])
    return {stream: b"".join(chunks) for stream, chunks in out.items()}


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    with Awake() as awake:
        while awake.seconds < seconds:
            if condition():
                return True
            time.sleep(0.05)
    return bool(condition())


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(str(folder))]


def terminal() -> Terminal:
    return Terminal(term="xterm", columns=81, rows=25)


@pytest.fixture(scope="session")
def tree() -> Path:
    return root_tree()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("LXC needs root")
    state_dir = tmp_path_factory.mktemp("lxc-state")
    made = Lab(state_dir, tree)
    if not made.engine.probe().available:
        pytest.skip(made.engine.probe().reason)
    made.clean()
    try:
        yield made
    finally:
        made.clean()
    assert mounts_below(state_dir) == []


@pytest.fixture(scope="module")
def bridge(lab: Lab) -> Iterator[Network]:
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", f"{NETWORK.gateway}/24", "dev", BRIDGE], check=True)
        subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
        yield NETWORK
    finally:
        lab.clean()
        subprocess.run(["ip", "link", "del", BRIDGE], check=True)
