"""A machine whose system has no drivers for virtio gets them, by the real virt-v2v, and boots from virtio."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import grub_guest
from tests.live.daemon import CACHE, Daemon
from tests.live.kvm_fixtures import debian_tree
from tests.live.test_import import imported
from tests.patience import PATIENCE, until

pytestmark = [pytest.mark.live, pytest.mark.kvm]

PREFIX = "timd-"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    made = Daemon(
        CACHE / "timpd", bridge="timd0", table="triune_timd", domain="timd.internal", candidates=["10.118.0.0/16"]
    )
    tree = debian_tree()
    version = grub_guest.kernel(tree)
    # The machine that does it needs a kernel with modules, which a test machine may have none of.
    made.env |= {
        "SUPERMIN_KERNEL": str(tree / f"boot/vmlinuz-{version}"),
        "SUPERMIN_KERNEL_VERSION": version,
        "SUPERMIN_MODULES": str(tree / "lib/modules" / version),
    }
    modules = Path("/lib/modules")
    had = modules.exists()
    modules.mkdir(exist_ok=True)  # supermin copies its mode
    with made:
        made.remove_all(PREFIX)
        yield made
        made.remove_all(PREFIX)
        made.stop()
    if not had:
        modules.rmdir()


@pytest.fixture(scope="module")
def vmx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grub_guest.make(debian_tree(), tmp_path_factory.mktemp("guest"))


def at_work(daemon: Daemon) -> list[str]:
    """The command lines of what puts drivers in."""
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(daemon.data / "drivers") in line]


def left(daemon: Daemon) -> list[str]:
    """What is there but the machine that libguestfs keeps."""
    return [path.name for path in (daemon.data / "drivers").iterdir() if not path.name.startswith(".guestfs")]


def test_it_boots_from_virtio(daemon: Daemon, vmx: Path) -> None:
    name = f"{PREFIX}web"
    plain = daemon.json("import", str(vmx), "--name", name, "--plan")
    assert plain["machine"]["disks"][0]["bus"] == "sata", "its initial RAM disk has no driver for virtio"
    assert any("--inject-drivers" in note for note in plain["notes"])
    before = (vmx.parent / "web.vmdk").stat()
    result = imported(daemon, "import", str(vmx), "--name", name, "--inject-drivers", "--no-verify")
    assert (result["up"], result["sign"]) == (True, "agent"), result
    assert result["drivers"]["tool"] == "virt-v2v-in-place"
    assert daemon.json("show", name)["devices"][0]["bus"] == "virtio"
    assert "vda" in daemon.exec(name, "ls", "/sys/block")
    assert ".pre-v2v" in daemon.exec(name, "ls", "/boot")
    after = (vmx.parent / "web.vmdk").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size), "the source is never touched"
    assert (left(daemon), at_work(daemon)) == ([], [])
    daemon.run("rm", name, "--yes", "--force")


def test_a_daemon_that_is_killed_meanwhile_leaves_nothing(daemon: Daemon, vmx: Path) -> None:
    name = f"{PREFIX}cut"
    sockets = set(Path("/tmp").glob("libguestfs*"))
    client = daemon.begin("import", str(vmx), "--name", name, "--inject-drivers", "--no-verify")
    until(lambda: list((daemon.data / "drivers").glob("*/sockets")), within=PATIENCE, pause=0.5)
    assert any("qemu-system" in line for line in at_work(daemon))
    daemon.kill()
    client.wait(60)
    until(lambda: not at_work(daemon), within=PATIENCE, pause=0.5)
    daemon.start()
    assert name not in daemon.names()
    assert not (daemon.data / "instances" / "kvm" / name).exists()
    assert left(daemon) == []
    assert set(Path("/tmp").glob("libguestfs*")) <= sockets
