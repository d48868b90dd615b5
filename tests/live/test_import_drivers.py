"""A machine whose system has no drivers for virtio gets them, by the real virt-v2v; a Linux boots from virtio then."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import grub_guest, windows_guest
from tests.live.daemon import CACHE, Daemon
from tests.live.kvm_fixtures import debian_tree
from tests.live.test_import import imported
from tests.patience import PATIENCE, until

pytestmark = [pytest.mark.live, pytest.mark.kvm]

PREFIX = "timd-"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
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
        "VIRTIO_WIN": str(windows_guest.drivers(tmp_path_factory.mktemp("virtio-win"))),
        "VIRT_TOOLS_DATA_DIR": str(windows_guest.helpers(tmp_path_factory.mktemp("virt") / "tools")),
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


def test_a_windows_has_the_drivers_at_its_next_start(daemon: Daemon, tmp_path: Path) -> None:
    """It has Windows's files, its registry and its NTFS, and can't boot: what it would load is looked at."""
    name = f"{PREFIX}office"
    argv = ("import", str(windows_guest.make(tmp_path / "guest")), "--name", name, "--inject-drivers", "--no-start")
    done = imported(daemon, *argv)
    assert [one["equal"] for one in done["disks"]] == [True]
    assert done["drivers"]["tool"] == "virt-v2v-in-place"
    assert daemon.json("show", name)["devices"][0]["bus"] == "virtio"
    (path,) = (daemon.data / "instances/kvm" / name).glob("*.qcow2")
    disk = windows_guest.Disk(path, tmp_path)
    try:
        service = disk.values("SYSTEM", "ControlSet001\\Services\\viostor")
        assert (service["Start"], service["ImagePath"]) == (0, "system32\\drivers\\viostor.sys")
        assert disk.read("Windows/System32/drivers/viostor.sys") == b"viostor.sys of a test\n"
        places = disk.values("SOFTWARE", "Microsoft\\Windows\\CurrentVersion")["DevicePath"]
        assert str(places).split(";")[-1] == "%SystemRoot%\\Drivers\\VirtIO"
        assert "netkvm.inf" in disk.names("Windows/Drivers/VirtIO")
        firstboot = "Program Files/Guestfs/Firstboot"
        assert disk.read(f"{firstboot}/rhsrvany.exe")
        (script,) = disk.names(f"{firstboot}/scripts")
        assert b"MsiExec.exe /x{8E8A2A4C-0001-4000-8000-000000000001}" in disk.read(f"{firstboot}/scripts/{script}")
    finally:
        disk.close()
    daemon.run("rm", name, "--yes", "--force")


def test_a_windows_there_are_no_drivers_for_is_not_made(daemon: Daemon, tmp_path: Path) -> None:
    name = f"{PREFIX}old"
    argv = ("import", str(windows_guest.make(tmp_path, seven=True)), "--name", name, "--inject-drivers", "--no-verify")
    done = daemon.run(*argv, check=False, timeout=800)
    assert done.returncode == 1
    assert "there are no virtio drivers available for this version of Windows (6.1" in done.stderr.decode()
    assert name not in daemon.names()


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
