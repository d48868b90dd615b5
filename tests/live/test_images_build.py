"""A real build: each form starts, instances have their own identity, and what is interrupted leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.bare_vm import BareVm, firmware
from tests.live.image_fixtures import NAME, SHARED, images, shared_cache
from tests.live.system_fixtures import FIXED
from tests.patience import PATIENCE
from triune.domain.errors import Failed
from triune.domain.image import DiskForm, FormKind, OciForm, TreeForm
from triune.domain.operation import Silent
from triune.services.images import BuildOptions, Images, ImportOptions, rootfs
from triune.services.images import build as builder
from triune.services.images.manifest import parse

__all__ = ["images"]
pytestmark = [pytest.mark.live]
MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="session")
def disk(images: Images) -> DiskForm:
    form, _ = images.form(NAME, FormKind.DISK, Silent())
    assert isinstance(form, DiskForm)
    return form


@pytest.fixture(scope="session")
def tree(images: Images) -> Path:
    form, _ = images.form(NAME, FormKind.TREE, Silent())
    assert isinstance(form, TreeForm)
    return form.path


def test_what_the_image_tells(images: Images) -> None:
    image = images.get(NAME)
    assert {FormKind.DISK, FormKind.TREE} <= set(image.forms)
    assert image.packages > 100
    assert all(size > 50 << 20 for size in image.form_sizes.values())
    disk = image.forms[FormKind.DISK]
    assert isinstance(disk, DiskForm)
    assert disk.path is not None
    manifest = parse((disk.path.parent / "manifest.json").read_bytes(), disk.path)
    assert manifest.packages["openssh-server"]
    # Ten GiB of disk take what the tree takes, not more.
    assert disk.virtual_size == 10 << 30
    assert disk.path.stat().st_blocks * 512 < 1.3 * image.form_sizes[FormKind.TREE] + (64 << 20)
    assert images.build(NAME, BuildOptions(packages=("openssh-server",)), Silent()).digest == image.digest


def test_nothing_in_the_tree_is_anybodys_identity(tree: Path) -> None:
    assert (tree / "etc/machine-id").read_bytes() == b""
    assert not (tree / "etc/hostname").exists()
    assert not list((tree / "etc/ssh").glob("ssh_host_*"))
    assert not (tree / "var/lib/systemd/random-seed").exists()
    assert not list((tree / "etc/apt").rglob("99mmdebstrap"))
    assert not list((tree / "var/cache/apt").rglob("*.deb"))
    assert not list((tree / "dev").iterdir())
    sources = "".join(path.read_text() for path in (tree / "etc/apt").rglob("*.sources"))
    assert "bookworm-security" in sources
    assert tree.stat().st_mode & 0o7777 == 0o755
    assert (tree / "usr/bin/su").stat().st_mode & 0o4000
    assert tree.parent.stat().st_mode & 0o7777 == 0o700


@pytest.mark.kvm
def test_direct_kernel_boot(disk: DiskForm, tmp_path: Path) -> None:
    assert disk.path is not None
    assert disk.kernel is not None
    cmdline = f"{disk.cmdline} systemd.hostname=timg-vm systemd.machine_id={MACHINE_ID} {FIXED}"
    boot = ["-kernel", str(disk.kernel), "-initrd", str(disk.initrd), "-append", cmdline]
    with BareVm(tmp_path, disk.path, "-device", "virtio-blk-pci,drive=disk", *boot, size="12G") as machine:
        agent = machine.wait_for_agent()
        login = machine.wait_for_login()
        print(f"agent after {agent:.1f} s, login prompt after {login:.1f} s")
        assert "timg-vm login:" in machine.serial()
        assert machine.run("systemctl is-system-running --wait").strip() == "running"
        assert machine.run("hostname; cat /etc/machine-id").split() == ["timg-vm", MACHINE_ID]
        assert machine.run("systemctl is-active ssh; ls /etc/ssh/ssh_host_ed25519_key").split()[0] == "active"
        # The disk was made larger than the image: the root file system has followed.
        assert int(machine.run("df --output=size -B1 / | tail -1")) > 11 << 30
        assert "10.0.2.15" in machine.run("ip -4 -o address show eth0")
        assert machine.run("systemctl --failed --no-legend").strip() == ""


@pytest.mark.kvm
@pytest.mark.parametrize(
    "device", [["virtio-blk-pci,drive=disk"], ["virtio-scsi-pci", "scsi-hd,drive=disk"]], ids=["blk", "scsi"]
)
def test_the_disk_boots_by_itself_under_uefi(disk: DiskForm, tmp_path: Path, device: list[str]) -> None:
    assert disk.path is not None
    words = [word for one in device for word in ("-device", one)]
    with BareVm(tmp_path, disk.path, *words, *firmware(tmp_path)) as machine:
        machine.wait_for_login()
        machine.wait_for_agent()
        assert machine.run("systemctl is-system-running --wait").strip() == "running"
        # A kernel installed inside finds the boot partition, and its entry joins the first.
        assert machine.run("ls /efi/loader/entries").startswith("triune-")


@pytest.mark.docker
def test_the_oci_form_runs(images: Images) -> None:
    form, _ = images.form(NAME, FormKind.OCI, Silent())
    assert isinstance(form, OciForm)
    done = subprocess.run(
        ["/usr/bin/docker", "run", "--rm", "--name", "timg-oci", form.id, "sh", "-c",
         "ls /usr/lib/modules /boot | wc -l; . /etc/os-release; echo $VERSION_CODENAME; stat -c %a /usr/bin/su"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[1:] == ["bookworm", "4755"]


def test_a_tree_exported_by_tar_comes_back_the_same(tree: Path, tmp_path: Path) -> None:
    packed = tmp_path / "root.tar.gz"
    subprocess.run(["tar", "-C", str(tree), "-I", "gzip -1", "--exclude=./boot", "--exclude=./usr/lib/modules",
                    "--xattrs", "-cf", str(packed), "."], check=True)  # fmt: skip
    again = Images(tmp_path / "images", {}, dict)
    again.import_file(packed, "timg/1", ImportOptions(), Silent())
    form, _ = again.form("timg/1", FormKind.TREE, Silent())
    assert isinstance(form, TreeForm)
    skipped = ["(", "-path", "./boot", "-o", "-path", "./usr/lib/modules", ")", "-prune", "-o"]
    folders = ["(", "-type", "d", "-printf", "%p %m %U %G %y\\n"]
    others = ["-o", "-printf", "%p %m %U %G %y %s %l\\n", ")"]
    listing = ["find", ".", *skipped, *folders, *others]
    before, after = (
        sorted(subprocess.run(listing, cwd=where, capture_output=True, check=True).stdout.splitlines())
        for where in (tree, form.path)
    )
    assert before == after


SCRIPT = """
import sys
from pathlib import Path
from triune.domain.operation import Silent
from triune.services.images import BuildOptions, Images
Images(Path(sys.argv[1]), {}, lambda: {}).build("debian/12", BuildOptions(), Silent())
"""


def working_below(root: Path) -> list[int]:
    """Processes with a word or a root folder below `root`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            inside = (path / "root").readlink().is_relative_to(root)
        except OSError:
            continue
        if int(path.name) != os.getpid() and (os.fsencode(root) in words or inside):
            found.append(int(path.name))
    return found


def test_a_killed_build_leaves_only_what_sweep_removes(images: Images, tmp_path: Path) -> None:
    root = tmp_path / "images"
    shared_cache(root)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], start_new_session=True)
    end = time.monotonic() + 120
    while not list(root.glob("tmp/build-*/private/tree/usr/bin/dpkg")) and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.1)
    alive = Images(root, {}, dict)
    assert list(alive.sweep()) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + PATIENCE
    while working_below(root) and time.monotonic() < end:
        time.sleep(0.1)
    assert working_below(root) == []
    assert str(root) not in Path("/proc/self/mountinfo").read_text()
    assert [name.partition("-")[0] for name in alive.sweep()] == ["tmp/build"]
    assert list((root / "tmp").iterdir()) == []
    assert alive.list() == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "timg", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_during_a_build(images: Images, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_cache(small)
    tight = Images(small, {}, dict)
    with pytest.raises(Failed) as caught:
        tight.build(NAME, BuildOptions(), Silent())
    assert caught.value.code == "no_space"
    assert caught.value.details["needed"] == builder.SPACE
    monkeypatch.setattr(builder, "SPACE", 0)
    monkeypatch.setattr(rootfs, "_SILENT", 5)  # apt may wait without an end
    with pytest.raises(Failed) as caught:
        tight.build(NAME, BuildOptions(), Silent())
    assert caught.value.code == "no_space"
    assert caught.value.hint
    assert list((small / "tmp").iterdir()) == []
    assert tight.list() == []
    assert (SHARED / "cache").is_dir()
