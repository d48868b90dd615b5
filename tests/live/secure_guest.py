"""A system whose whole chain is signed (shim, GRUB, kernel), as a machine of VMware's with secure boot and a TPM.

Shim and GRUB are unpacked, never installed: their packages would look after this host's own boot loader.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from triune.domain.image import DiskForm

SHIM = "usr/lib/shim/shimx64.efi.signed"
GRUB = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
_PACKAGES = ("shim-signed", "grub-efi-amd64-signed")
_MIB = 1 << 20
_ESP, _ROOT = _MIB, 65 * _MIB
_ENTRY = """set timeout=0
search --no-floppy --file --set=root /vmlinuz
menuentry Debian {
    linux /vmlinuz root=/dev/vda2 rw net.ifnames=0 console=ttyS0 norandmaps
    initrd /initrd.img
}
"""
_DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW {sectors} FLAT "web-flat.vmdk" 0
ddb.adapterType = "lsilogic"
ddb.virtualHWVersion = "13"
"""
_VMX = """displayName = "web"
guestOS = "debian12-64"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
managedvm.autoAddVTPM = "software"
memSize = "384"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web.vmdk"
"""


def _run(*argv: str | Path, stdin: bytes | None = None, cwd: Path | None = None) -> None:
    subprocess.run(argv, check=True, timeout=300, input=stdin, stdout=subprocess.DEVNULL, cwd=cwd)


def loaders(folder: Path) -> Path:
    """Debian's signed shim and GRUB, as they lie in a root tree; fetched once."""
    if not (folder / SHIM).exists() or not (folder / GRUB).exists():
        half = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *_PACKAGES, cwd=half)
        for package in half.glob("*.deb"):
            _run("dpkg-deb", "-x", package, half)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)
    return folder


def make(form: DiskForm, signed: Path, folder: Path) -> Path:
    """Write web.vmx, web.vmdk and web-flat.vmdk into the folder; returns the VMX. `form`: an ext4 with its kernel."""
    assert form.path is not None and form.kernel is not None and form.initrd is not None
    raw = folder / "web-flat.vmdk"
    size = _ROOT + form.virtual_size + _MIB
    with raw.open("wb") as file:
        file.truncate(size)
    table = f"label: gpt\nstart={_ESP // 512}, size={(_ROOT - _ESP) // 512}, type=U\n"
    table += f"start={_ROOT // 512}, size={form.virtual_size // 512}, type=L\n"
    _run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw, stdin=table.encode())
    target = f"driver=raw,offset={_ROOT},size={form.virtual_size},file.driver=file,file.filename={raw}"
    _run("qemu-img", "convert", "-n", "-f", form.format, "--target-image-opts", form.path, target)
    _write_esp(raw, form.kernel, form.initrd, signed)
    (folder / "web.vmdk").write_text(_DESCRIPTOR.format(sectors=size // 512))
    (folder / "web.vmx").write_text(_VMX)
    return folder / "web.vmx"


def _write_esp(raw: Path, kernel: Path, initrd: Path, signed: Path) -> None:
    entry, image = raw.with_name("grub.cfg"), f"{raw}@@{_ESP}"
    entry.write_text(_ENTRY)
    _run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "--offset", str(_ESP // 512), raw, str((_ROOT - _ESP) >> 10))
    _run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
    for file, name in (
        (signed / SHIM, "EFI/BOOT/BOOTX64.EFI"),
        (signed / GRUB, "EFI/BOOT/grubx64.efi"),
        (entry, "EFI/debian/grub.cfg"),
        (kernel, "vmlinuz"),
        (initrd, "initrd.img"),
    ):
        _run("mcopy", "-i", image, file, f"::/{name}")
