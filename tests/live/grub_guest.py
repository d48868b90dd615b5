"""A Debian with GRUB whose initial RAM disk has drivers for VMware's disks alone, as a machine of VMware's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

MONOLITHIC = Path("/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi")  # Debian's, which reads EFI/debian/grub.cfg
_MIB = 1 << 20
_ESP, _ROOT, _SIZE = _MIB, 65 * _MIB, 1400 * _MIB
_ENTRY = """search --no-floppy --label --set=root root
set timeout=0
menuentry Debian {{
    linux /boot/vmlinuz-{version} root=LABEL=root console=ttyS0 norandmaps
    initrd /boot/initrd.img-{version}
}}
"""
_VMX = """displayName = "web"
guestOS = "debian12-64"
firmware = "efi"
memSize = "384"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:1b:00:01"
"""


def _run(*argv: str | Path, stdin: bytes | None = None) -> None:
    subprocess.run(argv, check=True, timeout=300, input=stdin, stdout=subprocess.DEVNULL)


def kernel(tree: Path) -> str:
    """The version of the kernel in a tree."""
    return next((tree / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")


def make(tree: Path, folder: Path) -> Path:
    """Write web.vmx and web.vmdk of a copy of the tree into the folder; returns the VMX."""
    copy, raw = folder / "tree", folder / "disk.raw"
    _run("cp", "-a", tree, copy)
    _change(copy)
    with raw.open("wb") as file:
        file.truncate(_SIZE)
    root_size = _SIZE - _ROOT - _MIB
    table = f"label: gpt\nstart={_ESP // 512}, size={(_ROOT - _ESP) // 512}, type=U\n"
    table += f"start={_ROOT // 512}, size={root_size // 512}, type=L\n"
    _run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw, stdin=table.encode())
    _write_esp(raw, folder, kernel(tree))
    _run(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        "root",
        "-d",
        copy,
        "-E",
        f"offset={_ROOT}",
        raw,
        f"{root_size >> 10}k",
    )
    shutil.rmtree(copy)
    _run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicSparse", raw, folder / "web.vmdk")
    raw.unlink()
    (folder / "web.vmx").write_text(_VMX)
    return folder / "web.vmx"


def _change(tree: Path) -> None:
    tools = tree / "etc/initramfs-tools"
    (tools / "modules").write_text("vmw_pvscsi\nsd_mod\next4\n")
    (tools / "conf.d/small").write_text("MODULES=list\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n")
    # Few things to look for: this runs emulated, too.
    for hook in ("fsck", "keymap", "resume", "thermal", "dmsetup"):
        (tree / "usr/share/initramfs-tools/hooks" / hook).unlink(missing_ok=True)
    _run("chroot", tree, "update-initramfs", "-u", "-k", "all")
    (tree / "boot/efi").mkdir()
    (tree / "etc/fstab").write_text("LABEL=root / ext4 defaults 0 1\nLABEL=ESP /boot/efi vfat defaults 0 2\n")
    shutil.copy("/usr/sbin/grub-mkconfig", tree / "usr/sbin/grub-mkconfig")  # looked for, and not called


def _write_esp(raw: Path, folder: Path, version: str) -> None:
    entry, image = folder / "grub.cfg", f"{raw}@@{_ESP}"
    entry.write_text(_ENTRY.format(version=version))
    _run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "--offset", str(_ESP // 512), raw, str((_ROOT - _ESP) >> 10))
    _run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
    _run("mcopy", "-i", image, MONOLITHIC, "::/EFI/BOOT/BOOTX64.EFI")
    _run("mcopy", "-i", image, entry, "::/EFI/debian/grub.cfg")
