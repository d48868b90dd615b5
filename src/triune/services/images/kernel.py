"""The kernel and the small initial RAM disk of a direct kernel boot.

The kernel is handed over uncompressed where that is possible: decompressing it costs a good part of an emulated boot
and some of a real one. Format of the compressed kernel: Documentation/arch/x86/boot.rst of Linux (fields setup_sects,
payload_offset, payload_length); of the archive: "newc" of cpio(5).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gzip
import lzma
import struct
from importlib import resources
from pathlib import Path

from triune.domain.errors import Failed, TriuneError
from triune.host.run import run

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20
_MAX_KERNEL = 256 << 20
# Names as in modules.dep; those built into the kernel are not listed there and not needed. ext4 asks for crc32c by its
# name alone (a soft dependency), which insmod does not follow.
_MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "sd_mod", "ahci", "nvme"),
    *("crc32c_generic", "ext4", "virtio_console"),
)
_APPLETS = ("sh", "mount", "insmod", "grep", "usleep", "sleep", "echo", "poweroff", "switch_root", "mkdir", "ln", "cat")


def kernel_version(tree: Path) -> str:
    """The newest kernel in the tree. Raises Failed("no_kernel")."""
    versions = sorted(
        (path.name.removeprefix("vmlinuz-") for path in (tree / "boot").glob("vmlinuz-*")),
        key=lambda name: [int(part) if part.isdigit() else 0 for part in name.replace("-", ".").split(".")],
    )
    if not versions:
        raise Failed("no_kernel", "the built system has no kernel", hint="Build it with another kernel or mirror.")
    return versions[-1]


def write_kernel(packed: Path, folder: Path) -> Path:
    """Put the kernel into `folder`: `vmlinux`, uncompressed, or `vmlinuz` as it was. Returns its path."""
    raw = packed.read_bytes()
    plain = _unpacked(raw)
    target = folder / ("vmlinux" if plain else "vmlinuz")
    target.write_bytes(plain or raw)
    return target


def _unpacked(raw: bytes) -> bytes | None:
    if raw[0x202:0x206] != b"HdrS" or len(raw) < 0x250:
        # "HdrS" marks the boot protocol's header.
        return None
    offset, length = struct.unpack_from("<II", raw, 0x248)
    start = (raw[0x1F1] + 1) * 512 + offset
    payload = raw[start : start + length]
    # The last four bytes are the size of the kernel, appended by the kernel's build.
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4) if len(payload) > 4 else (0,)
    try:
        plain = _decompress(payload)
    except (OSError, ValueError, EOFError, lzma.LZMAError, struct.error, TriuneError):
        return None
    return plain if plain and plain.startswith(b"\x7fELF") and len(plain) in (size, size + 4) else None


def _decompress(payload: bytes) -> bytes | None:
    if payload.startswith(_LZ4_LEGACY):
        return _lz4(payload[:-4])
    if payload.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMADecompressor().decompress(payload, _MAX_KERNEL)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return run(["zstd", "-dcq"], stdin=payload[:-4], timeout=60).stdout
    return None


def _lz4(payload: bytes) -> bytes | None:
    """Legacy frames: the magic, then blocks of up to 8 MiB, each with its packed length before it."""
    # systemd itself depends on this library, so a host has it.
    library = ctypes.util.find_library("lz4")
    if library is None:
        return None
    unpack = ctypes.CDLL(library).LZ4_decompress_safe
    out: list[bytes] = []
    buffer = ctypes.create_string_buffer(_LZ4_BLOCK)
    position = 4
    while position + 4 <= len(payload):
        (length,) = struct.unpack_from("<I", payload, position)
        position += 4
        if payload[position - 4 : position] == _LZ4_LEGACY:
            continue
        block = payload[position : position + length]
        count = unpack(block, buffer, len(block), _LZ4_BLOCK)
        if count < 0 or len(out) * _LZ4_BLOCK > _MAX_KERNEL:
            raise ValueError("a damaged block")
        out.append(buffer.raw[:count])
        position += length
    return b"".join(out)


def write_initrd(tree: Path, version: str, target: Path) -> None:
    """Write the RAM disk: busybox, the modules of a virtual machine's disks, and files/initrd-init."""
    archive = _Cpio()
    for folder in ("bin", "dev", "lib", "lib64", "modules", "proc", "root", "sys"):
        archive.add(folder, 0o40755)
    archive.add("dev/console", 0o20600, device=(5, 1))
    archive.add("bin/busybox", 0o100755, (tree / "bin/busybox").read_bytes())
    for applet in _APPLETS:
        archive.add(f"bin/{applet}", 0o120777, b"busybox")
    for name, data in _libraries(tree):
        archive.add(name, 0o100755, data)
    modules = _module_files(tree / "lib/modules" / version)
    for path in modules:
        archive.add(f"modules/{path.name}", 0o100644, path.read_bytes())
    archive.add("modules/order", 0o100644, "".join(f"{path.name}\n" for path in modules).encode())
    init = resources.files(__package__) / "files" / "initrd-init"
    archive.add("init", 0o100755, init.read_bytes())
    target.write_bytes(archive.finish())


def _libraries(tree: Path) -> list[tuple[str, bytes]]:
    """The loader and the two libraries busybox is linked with."""
    folder = tree / "usr/lib/x86_64-linux-gnu"
    return [
        ("lib64/ld-linux-x86-64.so.2", (folder / "ld-linux-x86-64.so.2").read_bytes()),
        ("lib/libc.so.6", (folder / "libc.so.6").read_bytes()),
        ("lib/libresolv.so.2", (folder / "libresolv.so.2").read_bytes()),
    ]


def _module_files(folder: Path) -> list[Path]:
    """The modules and what they depend on, in the order they must be loaded."""
    known: dict[str, tuple[str, list[str]]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        name = path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
        known[name] = (path, needs.split())
    order: list[str] = []
    for name in _MODULES:
        if name in known:
            own, needed = known[name]
            order += [each for each in [*reversed(needed), own] if each not in order]
    return [folder / path for path in order]


class _Cpio:
    """Builds a newc archive in memory; every time is 0 and every owner root."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        path = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)
