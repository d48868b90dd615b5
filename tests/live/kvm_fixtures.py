"""Real libvirt for tests: a small bootable image made once, an engine with its own folder, domains that are removed.

The URI is $TRIUNE_TEST_LIBVIRT_URI, else qemu:///system. The root tree is $TRIUNE_TEST_TREE (Debian with systemd,
qemu-guest-agent, initramfs-tools and a kernel), else one built once with mmdebstrap beneath /var/tmp/triune-tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.live import small_guest
from tests.live.system_fixtures import FIXED
from tests.patience import PATIENCE
from triune.domain.errors import TriuneError
from triune.domain.image import DiskForm
from triune.domain.instance import InstanceSpec
from triune.domain.operation import Silent
from triune.engines.base import Command, LaunchPlan, Session
from triune.engines.kvm.client import Client
from triune.engines.kvm.engine import KvmEngine
from triune.services.images.manifest import DiskFiles, Manifest
from triune.services.images.store import ImageStore

PREFIX = os.environ.get("TRIUNE_TEST_PREFIX", "tkvm-")  # another one for a run beside a run
URI = os.environ.get("TRIUNE_TEST_LIBVIRT_URI", "qemu:///system")
BOOT = float(os.environ.get("TRIUNE_TEST_BOOT", "150"))  # seconds; emulated on busy cores
SMALL = "small/1"
_CACHE = Path("/var/tmp/triune-tests")
_PACKAGES = "systemd-sysv,udev,dbus,iproute2,initramfs-tools,busybox,qemu-guest-agent,linux-image-cloud-amd64"
_SIZE = 700 * 2**20


@contextmanager
def _alone() -> Iterator[None]:
    """One test process at a time."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "kvm-tree.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def debian_tree() -> Path:
    """Debian with systemd, a guest agent and a kernel, as a tree; made once."""
    if given := os.environ.get("TRIUNE_TEST_TREE"):
        return Path(given)
    tree = _CACHE / "kvm-tree"
    with _alone():
        if not (tree / "vmlinuz").exists():
            shutil.rmtree(tree, ignore_errors=True)
            subprocess.run(
                ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(tree)],
                check=True,
                timeout=280,
            )
    return tree


@pytest.fixture(scope="session")
def kvm_form() -> DiskForm:
    """A small system with a guest agent, booted directly by its kernel. Built once, kept in /var/tmp/triune-tests."""
    if os.geteuid() != 0 or shutil.which("qemu-img") is None:
        pytest.skip("needs root and QEMU")
    folder = _CACHE / "small-guest-2"  # another number where what is built has changed
    tree = debian_tree()
    with _alone():
        if not (folder / "base.qcow2").exists():
            half = _CACHE / f"{folder.name}.half"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            small_guest.build(tree, half, _SIZE)
            half.rename(folder)
    return DiskForm(
        path=folder / "base.qcow2",
        virtual_size=_SIZE,
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd.img",
        cmdline=f"net.ifnames=0 root=/dev/vda rw console=ttyS0 {FIXED}",
        agent=True,
    )


def put_small(images: Path) -> str:
    """Put the small system among a daemon's images, for tests that want any machine without network; its name there."""
    form: DiskForm = kvm_form.__wrapped__()
    assert form.path is not None
    files = DiskFiles(
        path=str(form.path),
        format=form.format,
        virtual_size=form.virtual_size,
        size=form.path.stat().st_size,
        kernel=str(form.kernel),
        initrd=str(form.initrd),
        cmdline=form.cmdline,
        agent=form.agent,
    )
    digest = hashlib.sha256(str(form.path).encode()).hexdigest()
    store = ImageStore(images)
    with store.work("import") as work:
        store.publish(work, Manifest(name=SMALL, digest=digest, created=datetime.now(UTC), source="tests", disk=files))
    store.set_name(SMALL, digest)
    return SMALL


class Lab:
    """An engine, and the names of what a test made with it."""

    def __init__(self, state_dir: Path, form: DiskForm, prefix: str = PREFIX) -> None:
        self.state_dir = state_dir
        self.prefix = prefix
        self.form = form
        self.engine = KvmEngine(state_dir, uri=URI)
        self.client = Client(URI)

    def plan(self, name: str, form: DiskForm | None = None, **spec: Any) -> LaunchPlan:
        base = InstanceSpec(name=self.prefix + name, image="debian/12", engine="kvm", network=None)
        return LaunchPlan(
            spec=replace(base, **spec),
            form=form or self.form,
            image="debian/12",
            created=datetime(2026, 1, 2, tzinfo=UTC),
            machine_id=os.urandom(16).hex(),
        )

    def launch(self, name: str, **more: Any) -> str:
        """Create, start and wait until it is ready; return the full name."""
        plan = self.plan(name, **more)
        self.engine.create(plan, Silent())
        self.engine.start(plan.spec.name, Silent())
        self.engine.wait_ready(plan.spec.name, BOOT, Silent())
        return plan.spec.name

    def row(self, name: str) -> Any:
        return next((row for row in self.engine.list() if row.name == name), None)

    def clean(self) -> None:
        for row in self.engine.list():
            if row.name.startswith(self.prefix):
                self.engine.delete(row.name)


@contextmanager
def own_lab(form: DiskForm, prefix: str = PREFIX) -> Iterator[Lab]:
    """A lab with a folder of its own that QEMU's user may pass through; nothing is left of it."""
    state_dir = _CACHE / f"{prefix}state-{os.getpid()}"
    made = Lab(state_dir, form, prefix)
    try:
        made.engine.list()
    except TriuneError as error:
        pytest.skip(f"libvirt: {error}")
    made.clean()
    yield made
    made.clean()
    shutil.rmtree(state_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(kvm_form: DiskForm) -> Iterator[Lab]:
    """An engine of these tests' own."""
    with own_lab(kvm_form) as made:
        yield made


@pytest.fixture(scope="module")
def guest(lab: Lab) -> str:
    """One running guest for all tests of a module that leave it running."""
    return lab.launch("guest", env={"TRIUNE_TEST": "inherited"})


def drain(session: Session, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a session to its end: (code, stdout, stderr)."""
    outputs = {1: bytearray(), 2: bytearray()}

    def feed() -> None:
        if stdin:
            session.write(stdin)
        session.close_stdin()

    writer = threading.Thread(target=feed, daemon=True)
    writer.start()
    while (got := session.read()) is not None:
        outputs[got[0]] += got[1]
    writer.join(PATIENCE)
    return session.wait(), bytes(outputs[1]), bytes(outputs[2])


def run(lab: Lab, name: str, *argv: str, stdin: bytes = b"", **more: Any) -> tuple[int, bytes, bytes]:
    """Run a command in a guest."""
    return drain(lab.engine.commands.open(name, Command(argv=argv, **more)), stdin)
