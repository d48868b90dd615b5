"""What virt-v2v takes for a Windows, as a machine of VMware's: a registry and an NTFS, none of Microsoft's programs.

Its registry begins with the smallest hive there can be; the format is that of
github.com/msuhanov/regf, "Windows registry file format specification".
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from dissect.ntfs import NTFS
from dissect.regf import regf
from dissect.util.stream import RangeStream

_MIB = 1 << 20
_SIZE, _START = 256 * _MIB, _MIB  # virt-v2v wants 100 MB to be free
_NO = 0xFFFFFFFF
_SOFTWARE = """[\\Microsoft\\Windows NT\\CurrentVersion]
"InstallationType"=str(1):"Client"

[\\Microsoft\\Windows\\CurrentVersion]
"DevicePath"=str(2):"%SystemRoot%\\\\inf"

[\\Microsoft\\Windows\\CurrentVersion\\Uninstall\\VMware]
"DisplayName"=str(1):"VMware Tools"
"UninstallString"=str(1):"MsiExec.exe /I{8E8A2A4C-0001-4000-8000-000000000001}"
"""
_TEN = """"ProductName"=str(1):"Windows 10 Pro"
"CurrentVersion"=str(1):"6.3"
"CurrentMajorVersionNumber"=dword:0000000a
"CurrentMinorVersionNumber"=dword:00000000
"""
_SEVEN = """"ProductName"=str(1):"Windows 7 Professional"
"CurrentVersion"=str(1):"6.1"
"""
_SYSTEM = """[\\Select]
"Current"=dword:00000001

[\\ControlSet001\\Control\\ComputerName\\ComputerName]
"ComputerName"=str(1):"OFFICE"

[\\ControlSet001\\Control\\CriticalDeviceDatabase]

[\\ControlSet001\\Services]

[\\MountedDevices]
"\\\\DosDevices\\\\C:"=hex(3):31,32,33,34,00,00,10,00,00,00,00,00
"""
_VMX = """displayName = "office"
guestOS = "windows9-64"
memSize = "256"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsisas1068"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "office.vmdk"
"""
DRIVERS = ("viostor", "netkvm")


def _run(*argv: str | Path, stdin: bytes | None = None) -> None:
    subprocess.run(argv, check=True, timeout=120, input=stdin, stdout=subprocess.DEVNULL)


def drivers(folder: Path) -> Path:
    """What virtio-win.iso has of two drivers, in its folders; their files say only what they are called."""
    for name, place in zip(DRIVERS, ("viostor", "NetKVM"), strict=True):
        files = folder / place / "w10/amd64"
        files.mkdir(parents=True)
        for suffix in ("sys", "inf", "cat"):
            (files / f"{name}.{suffix}").write_text(f"{name}.{suffix} of a test\n")
    return folder


def helpers(folder: Path) -> Path:
    """Where virt-v2v looks for the service that runs scripts at the first boot."""
    folder.mkdir()
    (folder / "rhsrvany.exe").write_bytes(_program())
    return folder


def make(folder: Path, *, seven: bool = False) -> Path:
    """Write office.vmx and office.vmdk of a Windows 10, or 7, into the folder; returns the VMX."""
    folder.mkdir(exist_ok=True)
    part, raw, mounted = folder / "part.raw", folder / "disk.raw", folder / "c"
    with part.open("wb") as file:
        file.truncate(_SIZE - _START - _MIB)
    _run("mkntfs", "-q", "-F", "-L", "system", "-p", str(_START // 512), "-H", "255", "-S", "63", part)
    mounted.mkdir()
    _run("ntfs-3g", part, mounted)
    try:
        _fill(mounted, folder, _SEVEN if seven else _TEN)
    finally:
        _run("umount", mounted)
    with raw.open("wb") as file:
        file.truncate(_SIZE)
    table = "label: dos\nlabel-id: 0x34333231\n"
    table += f"start={_START // 512}, size={part.stat().st_size // 512}, type=7, bootable\n"
    _run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw, stdin=table.encode())
    _run("dd", f"if={part}", f"of={raw}", "bs=1M", f"seek={_START // _MIB}", "conv=notrunc,sparse", "status=none")
    part.unlink()
    _run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=monolithicSparse",
        raw,
        folder / "office.vmdk",
    )
    raw.unlink()
    (folder / "office.vmx").write_text(_VMX)
    return folder / "office.vmx"


class Disk:
    """The file system in a qcow2 file of such a machine."""

    def __init__(self, path: Path, work: Path) -> None:
        raw = work / "result.raw"
        _run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
        self._file = raw.open("rb")
        self._ntfs = NTFS(RangeStream(self._file, _START, _SIZE - _START - _MIB))

    def read(self, path: str) -> bytes:
        """A file's content. Raises dissect.ntfs.exceptions.FileNotFoundError."""
        content: bytes = self._ntfs.mft.get(path).open().read()
        return content

    def names(self, path: str) -> set[str]:
        """What a folder holds, in small letters."""
        return {str(name).lower() for name in self._ntfs.mft.get(path).listdir()}

    def values(self, hive: str, key: str) -> dict[str, object]:
        """The values of a key of the registry."""
        stream = self._ntfs.mft.get(f"Windows/System32/config/{hive}").open()
        return {value.name: value.value for value in regf.RegistryHive(stream).open(key).values()}

    def close(self) -> None:
        self._file.close()


def _fill(root: Path, work: Path, version: str) -> None:
    config = root / "Windows/System32/config"
    config.mkdir(parents=True)
    for name in ("Windows/System32/drivers", "Windows/inf", "Program Files", "Users"):
        (root / name).mkdir()
    (root / "Windows/System32/cmd.exe").write_bytes(_program())
    software = _SOFTWARE.replace('"InstallationType"', version + '"InstallationType"')
    for name, keys in (("SOFTWARE", software), ("SYSTEM", _SYSTEM)):
        hive, merged = work / name, work / f"{name}.reg"
        hive.write_bytes(_hive())
        merged.write_text("Windows Registry Editor Version 5.00\n\n" + _with_parents(keys))
        _run("hivexregedit", "--merge", hive, merged)
        (config / name).write_bytes(hive.read_bytes())
        hive.unlink()
        merged.unlink()


def _with_parents(keys: str) -> str:
    """hivexregedit makes no key whose parent is not there."""
    lines: list[str] = []
    made: set[str] = set()
    for line in keys.splitlines():
        if line.startswith("["):
            parts = line.strip("[]").split("\\")
            parents = ["\\".join(parts[:end]) for end in range(2, len(parts))]
            lines += [f"[{parent}]\n" for parent in parents if parent not in made]
            made |= {*parents, line.strip("[]")}
        lines.append(line)
    return "\n".join(lines) + "\n"


def _program() -> bytes:
    """The headers of a program for x86-64 and the console: that is how the architecture is told."""
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0x22)
    optional = struct.pack("<H66xH", 0x20B, 3).ljust(240, b"\0")
    return (dos + coff + optional).ljust(1024, b"\0")


def _hive() -> bytes:
    """A hive with a root and its security descriptor: one bin of 4,096 bytes after a header of as many."""
    descriptor = struct.pack("<BBHIIII", 1, 0, 0x8000, 0, 0, 0, 0)
    name = b"$$$PROTO.HIV"
    security_at = 32 + 96
    root = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH", b"nk", 0x2C, 0, 0, _NO, 0, 0, _NO, _NO, 0, _NO, security_at, _NO, 0, 0, 0, 0, 0,
        len(name), 0,
    )  # fmt: skip
    security = struct.pack("<2sHIIII", b"sk", 0, security_at, security_at, 1, len(descriptor)) + descriptor
    cells = _cell(root + name, 96) + _cell(security, 48)
    free = 4096 - 32 - len(cells)
    body = struct.pack("<4sIIQQI", b"hbin", 0, 4096, 0, 0, 0) + cells + struct.pack("<i", free)
    header = struct.pack("<4sIIQIIIIII", b"regf", 1, 1, 0, 1, 3, 0, 1, 32, 4096) + struct.pack("<I", 1)
    header = header.ljust(508, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", header):
        checksum ^= word
    return (header + struct.pack("<I", checksum)).ljust(4096, b"\0") + body.ljust(4096, b"\0")


def _cell(content: bytes, size: int) -> bytes:
    return struct.pack("<i", -size) + content.ljust(size - 4, b"\0")
