"""A bootable disk made of a root tree, without a mount or a loop device.

    GPT
    1  triune-esp    FAT32   systemd-boot, its entry, kernel and initrd: the disk boots by itself under UEFI
    2  triune-root   ext4    the tree (mke2fs -d)

Beside it the kernel and a small initrd for a direct kernel boot, which needs no loader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triune.domain.operation import Progress
from triune.host.run import run
from triune.services.images.customize import (
    ENTRY_TOKEN,
    ESP_LABEL,
    ROOT_LABEL,
    direct_cmdline,
    identifier,
    own_cmdline,
)
from triune.services.images.kernel import kernel_version, write_initrd, write_kernel
from triune.services.images.manifest import DiskFiles
from triune.services.images.options import BuildOptions
from triune.services.images.releases import Release

_SECTOR = 512
_MIB = 1 << 20
_ESP_START, _ESP_SIZE = _MIB, 192 * _MIB
_ROOT_START = _ESP_START + _ESP_SIZE
# The spare partition table at the end of the disk, rounded.
_TAIL = _MIB
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # "root, x86-64" of the Discoverable Partitions Specification


@dataclass(frozen=True, slots=True)
class _Request:
    release: Release
    options: BuildOptions
    tree: Path
    folder: Path
    version: str

    def uuid(self, what: str) -> str:
        return str(identifier(self.release, self.options, what))


def make_disk(
    tree: Path, folder: Path, release: Release, options: BuildOptions, *, cloud_init: bool, progress: Progress
) -> DiskFiles:
    """Write disk.qcow2, the kernel and initrd.img into `folder`."""
    request = _Request(release, options, tree, folder, kernel_version(tree))
    raw, target = folder / "disk.raw", folder / "disk.qcow2"
    try:
        _partition(raw, request)
        progress.report(0.1, "writing the boot partition")
        _write_esp(raw, request)
        progress.report(0.3, "writing the root file system")
        _write_root(raw, request)
        progress.report(0.6, "packing the disk")
        run(
            ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", raw, target],
            timeout=1800,
        )
    finally:
        raw.unlink(missing_ok=True)
    kernel = write_kernel(tree / f"boot/vmlinuz-{request.version}", folder)
    initrd = folder / "initrd.img"
    write_initrd(tree, request.version, initrd)
    for path in (target, kernel, initrd):
        path.chmod(0o644)
    return DiskFiles(
        path=target.name,
        format="qcow2",
        virtual_size=options.size,
        size=sum(path.stat().st_blocks * _SECTOR for path in (target, kernel, initrd)),
        kernel=kernel.name,
        initrd=initrd.name,
        cmdline=direct_cmdline(),
        firmware="uefi",
        agent=True,
        cloud_init=cloud_init,
        fixed_hostname=not options.hostname_from_instance,
    )


def _partition(raw: Path, request: _Request) -> None:
    with raw.open("wb") as file:
        file.truncate(request.options.size)
    root_size = request.options.size - _ROOT_START - _TAIL
    table = (
        f"label: gpt\nlabel-id: {request.uuid('disk')}\n"
        f"start={_ESP_START // _SECTOR}, size={_ESP_SIZE // _SECTOR}, type=U, name={ESP_LABEL}, "
        f"uuid={request.uuid('esp')}\n"
        f"start={_ROOT_START // _SECTOR}, size={root_size // _SECTOR}, type={_ROOT_TYPE}, name={ROOT_LABEL}, "
        f"uuid={request.uuid('root')}\n"
    )
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw], stdin=table.encode())


def _write_esp(raw: Path, request: _Request) -> None:
    tree, version = request.tree, request.version
    entry = request.folder / "entry.conf"
    loader = request.folder / "loader.conf"
    folder = f"{ENTRY_TOKEN}/{version}"
    # The names kernel-install gives, so that an upgrade inside the machine adds to them and removes them.
    entry.write_text(
        f"title {request.release.name}\nversion {version}\nlinux /{folder}/linux\n"
        f"initrd /{folder}/initrd.img-{version}\noptions {own_cmdline(request.release, request.options)}\n"
    )
    loader.write_text("timeout 0\nconsole-mode keep\neditor no\n")
    epoch = {"SOURCE_DATE_EPOCH": str(request.release.epoch)}
    serial = request.uuid("esp")[:8]
    blocks = str(_ESP_SIZE // 1024)
    image = f"{raw}@@{_ESP_START}"
    try:
        # FAT32 has at least 65525 clusters, or firmware takes it for FAT16: hence clusters of 1 KiB.
        run(
            ["mkfs.vfat", "-F", "32", "-s", "2", "-i", serial, "-n", "ESP", "--invariant",
             "--offset", str(_ESP_START // _SECTOR), raw, blocks],
            env=epoch,
        )  # fmt: skip
        run(
            ["mmd", "-i", image, "::/EFI", "::/EFI/BOOT", "::/EFI/systemd", "::/loader", "::/loader/entries",
             f"::/{ENTRY_TOKEN}", f"::/{folder}"],
            env=epoch,
        )  # fmt: skip
        boot = tree / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
        for source, target in (
            (boot, "EFI/BOOT/BOOTX64.EFI"),
            (boot, "EFI/systemd/systemd-bootx64.efi"),
            (loader, "loader/loader.conf"),
            (entry, f"loader/entries/{ENTRY_TOKEN}-{version}.conf"),
            (tree / f"boot/vmlinuz-{version}", f"{folder}/linux"),
            (tree / f"boot/initrd.img-{version}", f"{folder}/initrd.img-{version}"),
        ):
            run(["mcopy", "-i", image, source, f"::/{target}"], env=epoch)
    finally:
        entry.unlink(missing_ok=True)
        loader.unlink(missing_ok=True)


def _write_root(raw: Path, request: _Request) -> None:
    size = request.options.size - _ROOT_START - _TAIL
    uuid = request.uuid("fs")
    run(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-U", uuid, "-m", "1", "-d", request.tree),
            "-E",
            # The file is sparse, so its inode tables are zero already: no guest must zero them later.
            f"offset={_ROOT_START},hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=1,assume_storage_prezeroed=1",
            raw,
            f"{size // 1024}k",
        ],
        env={"E2FSPROGS_FAKE_TIME": str(request.release.epoch)},
        timeout=1800,
    )
