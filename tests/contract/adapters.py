"""What the contract suite needs to know of each engine: how to make it, and a minimal instance of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from triune.domain.image import Form, OciForm, TreeForm
from triune.domain.instance import InstanceSpec
from triune.engines.base import Engine, LaunchPlan

PREFIX = os.environ.get("TRIUNE_TEST_PREFIX", "tdoc-")  # another one for a run beside a run
NOWHERE = Path("/var/tmp/triune-tests/nowhere")
TESTS = Path("/var/tmp/triune-tests")
_APPLETS = "cat echo env false grep head hostname id ip kill nc ps pwd sh sleep stty true wget".split()  # noqa: SIM905


class Adapter:
    """One engine under test. Live ones are made once per run."""

    name = ""
    marks: tuple[Any, ...] = ()
    patience = 20.0
    # Whether a guest that ignores shutdown, and one that writes a log, can be made cheaply.
    stubborn_settings: dict[str, str] | None = None
    stubborn_command: tuple[str, ...] | None = None
    chatty_command: tuple[str, ...] | None = None
    chatty_settings: dict[str, str] | None = None
    console_answers = True

    def make(self) -> Engine:
        """The engine, or pytest.skip with a reason."""
        raise NotImplementedError

    def form(self, engine: Engine) -> Form:
        """A form with sh, cat, sleep, stty."""
        raise NotImplementedError

    def unreachable(self) -> Engine | None:
        """An engine whose daemon is away, or None where there is no daemon."""
        return None

    def leave_half_made(self, engine: Engine, name: str, step: int) -> bool:
        """Make what a crash at this step of `create` leaves; False when there is no such step."""
        del engine
        argv = [sys.executable, "-m", "tests.contract.crash", self.name, name, str(step)]
        ended = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
        assert ended.returncode in (0, 99), ended.stderr
        return ended.returncode == 99

    def plan(self, engine: Engine, name: str, **changes: Any) -> LaunchPlan:
        """A plan for the minimal instance; `changes` go into the spec."""
        spec = InstanceSpec(name=name, image="tdoc/1", engine=self.name, network=None)
        return LaunchPlan(
            spec=replace(spec, **changes),
            form=self.form(engine),
            image="tdoc/1",
            created=datetime.now(UTC).replace(microsecond=0),
            machine_id=uuid.uuid4().hex,
        )

    def cleanup(self, engine: Engine) -> None:
        """Remove every instance of these tests, and the form."""
        for row in engine.list():
            if row.name.startswith(PREFIX):
                engine.delete(row.name)


class FakeAdapter(Adapter):
    """In memory; runs everywhere."""

    name = "fake"
    stubborn_settings = {"stop": "ignored"}
    chatty_settings = {"log": "line 1|line 2|line 3"}

    def make(self) -> Engine:
        from triune.engines.fake.engine import FakeEngine

        return FakeEngine()

    def form(self, engine: Engine) -> Form:
        del engine
        return OciForm(id="sha256:" + "0" * 64, reference="tdoc/1")

    def unreachable(self) -> Engine:
        from triune.engines.fake.engine import FakeEngine

        engine = FakeEngine()
        engine.go_down()
        return engine

    def leave_half_made(self, engine: Engine, name: str, step: int) -> bool:
        engine.leave_half_made(name)  # type: ignore[attr-defined]
        return step < 2


class DockerAdapter(Adapter):
    """The engine of this host."""

    name = "docker"
    marks = (pytest.mark.live, pytest.mark.docker)
    reference = f"{PREFIX}contract:1"
    stubborn_command = ("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    chatty_command = ("sh", "-c", "for i in 1 2 3; do echo line $i; done; exec sleep 1000")

    def make(self) -> Engine:
        from triune.engines.docker.engine import DockerEngine

        engine = DockerEngine(state_dir=TESTS / "contract-docker")
        probe = engine.probe()
        if not probe.available:
            pytest.skip(f"no Docker: {probe.reason}")
        return engine

    def form(self, engine: Engine) -> Form:
        assert engine.oci is not None
        found = engine.oci.inspect(self.reference)
        if found is None:
            tar = busybox_tar(TESTS / "busybox")
            return engine.oci.load_tree(tar, self.reference, command=("sleep", "1000"), labels={})
        return OciForm(id=str(found["id"]), reference=self.reference)

    def unreachable(self) -> Engine:
        from triune.engines.docker.engine import DockerEngine

        return DockerEngine(f"unix://{NOWHERE}")

    def cleanup(self, engine: Engine) -> None:
        super().cleanup(engine)
        assert engine.oci is not None
        engine.oci.remove(self.reference)


class LxcAdapter(Adapter):
    """liblxc of this host, with a Debian tree."""

    name = "lxc"
    marks = (pytest.mark.live, pytest.mark.lxc)
    patience = 60.0

    def make(self) -> Engine:
        try:
            from triune.engines.lxc.engine import LxcEngine
        except ImportError as error:
            pytest.skip(f"no lxc engine: {error}")
        engine = LxcEngine(Path("/var/lib/lxc"), state_dir=TESTS / "contract-lxc")
        probe = engine.probe()
        if not probe.available:
            pytest.skip(f"no LXC: {probe.reason}")
        return engine

    def form(self, engine: Engine) -> Form:
        del engine
        return TreeForm(path=debian_tree())


class KvmAdapter(Adapter):
    """libvirt of this host."""

    name = "kvm"
    marks = (pytest.mark.live, pytest.mark.kvm)
    patience = 150.0

    def make(self) -> Engine:
        try:
            from triune.engines.kvm.engine import KvmEngine
        except ImportError as error:
            pytest.skip(f"no kvm engine: {error}")
        engine = KvmEngine(TESTS / "contract-kvm")
        probe = engine.probe()
        if not probe.available:
            pytest.skip(f"no KVM engine: {probe.reason}")
        return engine

    def form(self, engine: Engine) -> Form:
        del engine
        from tests.live.kvm_fixtures import kvm_form

        # The function behind the fixture: the crash program has no pytest to ask for it.
        form: Form = kvm_form.__wrapped__()
        return form

    def unreachable(self) -> Engine:
        from triune.engines.kvm.engine import KvmEngine

        return KvmEngine(TESTS / "contract-kvm", uri=f"qemu+unix:///system?socket={NOWHERE}")


ADAPTERS: tuple[Adapter, ...] = (FakeAdapter(), DockerAdapter(), LxcAdapter(), KvmAdapter())


def debian_tree() -> Path:
    """A Debian tree with systemd: TRIUNE_TEST_TREE, or built once."""
    for place in (os.environ.get("TRIUNE_TEST_TREE"), str(TESTS / "tree")):
        if place and (Path(place) / "sbin/init").is_symlink():
            return Path(place)
    if not shutil.which("mmdebstrap") or os.geteuid() != 0:
        pytest.skip("no Debian tree: set TRIUNE_TEST_TREE, or install mmdebstrap and run as root")
    TESTS.mkdir(parents=True, exist_ok=True)
    packages = "--include=systemd,systemd-sysv,dbus,udev,busybox"
    new = TESTS / "tree.new"
    shutil.rmtree(new, ignore_errors=True)
    subprocess.run(["mmdebstrap", "--variant=minbase", packages, "bookworm", new], check=True)
    return new.rename(TESTS / "tree")


def busybox_tar(folder: Path) -> Iterator[bytes]:
    """The tar stream of a tree with nothing but busybox and what it is linked against."""
    program = shutil.which("busybox") or str(debian_tree() / "bin/busybox")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("bin", "etc", "tmp", "proc", "dev", "sys"):
            (folder / part).mkdir(parents=True)
        shutil.copy(program, folder / "bin/busybox")
        for library in _libraries(program):
            (folder / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, folder / library.lstrip("/"))
        for applet in _APPLETS:
            (folder / "bin" / applet).symlink_to("busybox")
        (folder / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nguest:x:1000:1000::/:/bin/sh\n")
        (folder / "etc/group").write_text("root:x:0:\nguest:x:1000:\n")
        (folder / "done").touch()
    process = subprocess.Popen(["tar", "-C", str(folder), "--owner=0", "--group=0", "-c", "."], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        while piece := process.stdout.read(1 << 16):
            yield piece


def _libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return [word for line in listed.stdout.splitlines() for word in line.split() if word.startswith("/")]
