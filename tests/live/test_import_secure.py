"""A machine of VMware's with secure boot and a TPM: its chain is proved by the firmware, and its TPM goes with it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import secure_guest
from tests.live.daemon import CACHE, Daemon
from tests.live.kvm_fixtures import kvm_form
from tests.live.test_import import imported
from tests.patience import PATIENCE, until
from triune.domain.image import DiskForm

__all__ = ["kvm_form"]
pytestmark = [pytest.mark.live, pytest.mark.kvm]

PREFIX = "tims-"
WEB = f"{PREFIX}web"
STATES = Path("/var/lib/libvirt/swtpm")
KEYS = Path("/var/lib/swtpm-localca")
LOG = "serial.log"
_INDEX = 0x01800001  # of the TPM's memory, the owner's to use
_PLAIN = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)  # an empty password
_TALK = 'open F, "+<", "/dev/tpm0" or die $!; for (@ARGV) { syswrite F, pack("H*", $_); sysread F, $b, 4096; '
_TALK += 'print unpack("H*", $b), "\\n" }'


def _command(code: int, *body: bytes) -> bytes:
    """TPM 2.0 Library, Part 3: tag (with a session), size, code."""
    whole = b"".join(body)
    return struct.pack(">HII", 0x8002, 10 + len(whole), code) + whole


def _define() -> bytes:
    # NV index, SHA-256, readable and writable by its owner and by its password, 8 bytes
    public = struct.pack(">IHIHH", _INDEX, 0x000B, 0x02060006, 0, 8)
    return _command(0x12A, struct.pack(">I", 0x40000001), _PLAIN, struct.pack(">HH", 0, len(public)), public)


def _write(data: bytes) -> bytes:
    return _command(
        0x137, struct.pack(">II", _INDEX, _INDEX), _PLAIN, struct.pack(">H", len(data)), data, struct.pack(">H", 0)
    )


def _read() -> bytes:
    return _command(0x14E, struct.pack(">II", _INDEX, _INDEX), _PLAIN, struct.pack(">HH", 8, 0))


def talk(daemon: Daemon, name: str, *commands: bytes) -> list[bytes]:
    """What the guest's TPM answers."""
    said = daemon.exec(name, "perl", "-e", _TALK, *(one.hex() for one in commands))
    answers = [bytes.fromhex(line) for line in said.split()]
    assert [struct.unpack(">HII", one[:10])[2] for one in answers] == [0] * len(commands), said
    return answers


def root_of(daemon: Daemon, name: str) -> Path:
    return daemon.data / "instances/kvm" / name


def memory(name: str) -> Path:
    """The file with what the TPM of a domain remembers."""
    done = subprocess.run(["virsh", "domuuid", name], capture_output=True, text=True, check=True)
    return STATES / done.stdout.strip() / "tpm2/tpm2-00.permall"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    assert shutil.which("swtpm_setup"), "make test-tools"
    if KEYS.exists():
        # A libvirtd that was started before swtpm was there made them as root, as `triune doctor` tells.
        subprocess.run(["chown", "-R", f"--reference={KEYS}", KEYS], check=True)
    made = Daemon(
        CACHE / "timsd", bridge="tims0", table="triune_tims", domain="tims.internal", candidates=["10.119.0.0/16"]
    )
    with made:
        made.remove_all(PREFIX)
        yield made
        made.remove_all(PREFIX)
        made.stop()


@pytest.fixture(scope="module")
def vmx(kvm_form: DiskForm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return secure_guest.make(
        kvm_form, secure_guest.loaders(CACHE / "signed-loaders"), tmp_path_factory.mktemp("secure")
    )


@pytest.fixture(scope="module")
def web(daemon: Daemon, vmx: Path) -> str:
    """The one machine of these tests, running."""
    result = imported(daemon, "import", str(vmx), "--name", WEB, "--network", "none", "--no-verify")
    assert (result["up"], result["sign"]) == (True, "agent"), result
    return WEB


def test_the_firmware_proves_the_chain(daemon: Daemon, web: str) -> None:
    assert daemon.exec(web, "sh", "-c", "od -An -tx1 /sys/firmware/efi/efivars/SecureBoot-*").split()[-1] == "01"
    assert "[integrity]" in daemon.exec(web, "cat", "/sys/kernel/security/lockdown")
    assert "Secure boot enabled" in daemon.exec(web, "dmesg")


def test_the_tpm_answers(daemon: Daemon, web: str) -> None:
    assert daemon.exec(web, "cat", "/sys/class/tpm/tpm0/tpm_version_major").strip() == "2"
    measured = daemon.exec(web, "cat", "/sys/class/tpm/tpm0/pcr-sha256/7").strip()
    assert int(measured, 16) != 0, "the firmware measures how it boots into it"
    *_, read = talk(daemon, web, _define(), _write(b"original"), _read())
    assert b"original" in read


def test_a_snapshot_holds_the_tpm(daemon: Daemon, web: str) -> None:
    """And what is put back is what the firmware took: the altered loader in between it refuses."""
    refused = daemon.run("snapshot", "create", web, "hot", "--memory", check=False)
    assert refused.returncode != 0 and b"no_memory_snapshot" in refused.stderr
    daemon.run("snapshot", "create", web, "whole")
    held = memory(web).read_bytes()
    assert b"changed!" in talk(daemon, web, _write(b"changed!"), _read())[1]
    loader = "/mnt/EFI/BOOT/BOOTX64.EFI"
    spoil = f"printf X | dd of={loader} bs=1 seek=600000 conv=notrunc"
    daemon.exec(web, "sh", "-c", f"mount /dev/vda1 /mnt && {spoil} && umount /mnt")
    daemon.run("stop", web)
    log = root_of(daemon, web) / LOG
    before = log.stat().st_size
    subprocess.run(["virsh", "start", web], check=True, stdout=subprocess.DEVNULL)  # nothing waits for its agent
    until(lambda: b"Access Denied" in log.read_bytes()[before:], within=PATIENCE, pause=0.5)
    assert b"GRUB" not in log.read_bytes()[before:]
    daemon.run("stop", web, "--force")
    daemon.run("snapshot", "restore", web, "whole", "--yes")
    assert memory(web).read_bytes() == held


def test_an_unsigned_kernel_is_refused_by_a_signed_loader(daemon: Daemon, web: str) -> None:
    daemon.run("start", web)
    until(lambda: daemon.run("exec", web, "true", check=False).returncode == 0, within=PATIENCE, pause=0.5)
    spoil = "printf X | dd of=/mnt/vmlinuz bs=1 seek=5000000 conv=notrunc"
    daemon.exec(web, "sh", "-c", f"mount /dev/vda1 /mnt && {spoil} && umount /mnt")
    daemon.run("stop", web)
    log = root_of(daemon, web) / LOG
    before = log.stat().st_size
    subprocess.run(["virsh", "start", web], check=True, stdout=subprocess.DEVNULL)
    until(lambda: b"bad shim signature" in log.read_bytes()[before:], within=PATIENCE, pause=0.5)
    assert b"Linux version" not in log.read_bytes()[before:]
    daemon.run("stop", web, "--force")
    daemon.run("snapshot", "restore", web, "whole", "--yes")


def test_a_clone_and_a_backup_take_it_along(daemon: Daemon, web: str, tmp_path: Path) -> None:
    held = memory(web).read_bytes()
    clone, back = f"{PREFIX}two", f"{PREFIX}back"
    daemon.run("clone", web, clone)
    daemon.run("clone", web, f"{PREFIX}old", "--snapshot", "whole")
    where = ("--repo", str(tmp_path / "repository"))
    daemon.run("backup", "create", web, *where)
    daemon.run("backup", "restore", web, "--name", back, *where)
    homes = []
    for name in (clone, f"{PREFIX}old", back):
        assert memory(name).read_bytes() == held
        homes.append(memory(name).parents[1])
        daemon.run("rm", name, "--yes")
    assert not [home for home in homes if home.exists()]


def test_a_new_name_and_the_end(daemon: Daemon, web: str) -> None:
    home, held, name = memory(web).parents[1], memory(web).read_bytes(), f"{PREFIX}other"
    daemon.run("rename", web, name)
    assert memory(name).read_bytes() == held
    nvram = root_of(daemon, name) / "nvram.fd"
    assert nvram.exists()
    daemon.run("rm", name, "--yes")
    assert not home.exists() and not nvram.exists()


def test_without_them(daemon: Daemon, vmx: Path) -> None:
    name = f"{PREFIX}plain"
    options = ("--network", "none", "--no-verify", "--no-start", "--no-secure-boot", "--no-tpm")
    daemon.run("import", str(vmx), "--name", name, *options)
    xml = subprocess.run(["virsh", "dumpxml", name], capture_output=True, text=True, check=True).stdout
    assert "<tpm" not in xml and "<smm" not in xml
    argv = ["virsh", "domxml-to-native", "qemu-argv", "--domain", name]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "OVMF_CODE" in told and ".ms.fd" not in told and ".secboot" not in told
    daemon.run("rm", name, "--yes")
