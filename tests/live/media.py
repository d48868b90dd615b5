"""Small media that boot: an installer's ISO image for BIOS and UEFI, and archives of busybox as a root tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.contract.adapters import TESTS, busybox_tar

BIOS_SAYS = "te2e: started by the BIOS"
UEFI_SAYS = "te2e.started=uefi"

# 16-bit code that writes the text behind it to the first serial port, and halts.
_BOOT_SECTOR = bytes.fromhex(
    "e80000"  # call next        next is at 3
    "5e"  # next: pop si
    "81c61f00"  # add si, 0x1f   the text is at 0x22
    "0e1f"  # push cs; pop ds
    "ac"  # char: lodsb
    "08c0"  # or al, al
    "7410"  # jz end
    "50"  # push ax
    "bafd03"  # mov dx, 0x3fd    line status
    "ec"  # wait: in al, dx
    "a820"  # test al, 0x20      ready to send
    "74fb"  # jz wait
    "58"  # pop ax
    "baf803"  # mov dx, 0x3f8
    "ee"  # out dx, al
    "ebeb"  # jmp char
    "f4"  # end: hlt
    "ebfd"  # jmp end
)


def run(*words: object) -> None:
    """Run a tool."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


def installer(target: Path, tree: Path, scratch: Path) -> Path:
    """An ISO image with two El Torito entries: the boot sector above, and systemd-boot with the kernel of `tree`."""
    content = scratch / "iso"
    content.mkdir(parents=True)
    (content / "bios.bin").write_bytes((_BOOT_SECTOR + BIOS_SAYS.encode() + b"\r\n\0").ljust(2048, b"\0"))
    esp = content / "efi.img"
    with esp.open("wb") as file:
        file.truncate(24 << 20)
    run("mkfs.vfat", "-F", "16", esp)
    run("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries")
    (scratch / "loader.conf").write_text("timeout 0\n")
    (scratch / "te2e.conf").write_text(f"title te2e\nlinux /linux\noptions console=ttyS0 {UEFI_SAYS}\n")
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    for source, name in (
        (tree / "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"),
        (scratch / "loader.conf", "loader/loader.conf"),
        (scratch / "te2e.conf", "loader/entries/te2e.conf"),
        (kernel, "linux"),
    ):
        run("mcopy", "-i", esp, source, f"::/{name}")
    bios = ("-b", "bios.bin", "-no-emul-boot", "-boot-load-size", "4")
    uefi = ("-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot")
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "TE2E", "-o", target, *bios, *uefi, content)
    return target


def root_tree(folder: Path) -> Path:
    """Busybox with an init that stays, as a folder to be packed."""
    folder.mkdir(parents=True)
    packed = b"".join(busybox_tar(TESTS / "busybox"))
    subprocess.run(["tar", "-C", str(folder), "-x"], input=packed, check=True)
    (folder / "sbin").mkdir(exist_ok=True)
    (folder / "sbin/init").write_text("#!/bin/sh\ntrap 'exit 0' TERM PWR INT\nwhile :; do sleep 1 & wait $!; done\n")
    (folder / "sbin/init").chmod(0o755)
    return folder
