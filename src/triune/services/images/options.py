"""What a build and an import can be asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Invalid
from triune.domain.names import single_line
from triune.domain.units import format_size

GIB = 1 << 30
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,98}(?::[a-z0-9-]{1,20})?", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9][\w@:.-]{0,200}\.(?:service|socket|timer|path)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_URI = re.compile(r"(?:https?|ftp|file|copy)://[^\s\"]+", re.ASCII)
_MIN_DISK, _MAX_DISK = GIB, 64 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """`packages` are added to the image's own; `size` is the disk's, in bytes.

    `kernel` is "cloud" (virtio only: small and quick) or "generic" (every driver: AHCI, real hardware passed through).
    `hostname_from_instance` False gives every VM and system container the distribution's name inside. `mirror`
    replaces the address of the archive; `sources` is a deb822 or one-line file used as it is instead of the host's
    own sources.
    `rebuild` builds even where an image with these options exists. `release` is what is built where the image is called
    otherwise; `disabled` are units of added packages that are not started at boot.
    """

    packages: tuple[str, ...] = ()
    size: int = 10 * GIB
    hostname_from_instance: bool = True
    kernel: str = "cloud"
    mirror: str | None = None
    sources: Path | None = None
    rebuild: bool = False
    release: str = ""
    disabled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for unit in self.disabled:
            if not _UNIT.fullmatch(unit):
                raise Invalid("bad_unit", f"{unit!r} is not a unit's name", hint="Write it like nginx.service.")
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise Invalid("bad_package", f"{package!r} is not a package name", hint="Write it like openssh-server.")
        if not _MIN_DISK <= self.size <= _MAX_DISK:
            raise Invalid(
                "bad_size",
                f"a disk of {format_size(self.size)} can't be built",
                hint=f"Use {format_size(_MIN_DISK)} to {format_size(_MAX_DISK)}.",
            )
        if self.kernel not in ("cloud", "generic"):
            raise Invalid("bad_kernel", f"{self.kernel!r} is not a kernel", hint="Use cloud or generic.")
        if self.mirror is not None and not _URI.fullmatch(single_line(self.mirror, "mirror")):
            raise Invalid("bad_mirror", f"{self.mirror!r} is not an address", hint="Write it like http://host/debian.")

    def as_dict(self) -> dict[str, object]:
        """What decides the result, JSON-safe: part of the digest."""
        return {
            "packages": sorted(set(self.packages)),
            "size": self.size,
            "hostname_from_instance": self.hostname_from_instance,
            "kernel": self.kernel,
            # Left out where empty: what was built before there was such an option keeps its digest.
            **({"release": self.release} if self.release else {}),
            **({"disabled": sorted(set(self.disabled))} if self.disabled else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """`format` is qcow2, vmdk, raw, iso, tree or oci; None takes what the content says, if it says it without doubt.

    `sha256` (hex) must match the file. `firmware` is bios or uefi, for disks and installers. `agent` and `cloud_init`
    say that the system on a disk has them. `max_size` caps the
    virtual size of a disk and the unpacked size of a tree. `replace` lets the name move from another image.
    """

    format: str | None = None
    sha256: str | None = None
    firmware: str = "bios"
    agent: bool = False
    cloud_init: bool = False
    max_size: int = 4 << 40
    replace: bool = False

    def __post_init__(self) -> None:
        if self.format not in (None, "qcow2", "vmdk", "raw", "iso", "tree", "oci"):
            raise Invalid(
                "bad_format",
                f"{self.format!r} is not a format that can be imported",
                hint="Use qcow2, vmdk, raw, iso, tree or oci.",
            )
        if self.firmware not in ("bios", "uefi"):
            raise Invalid("bad_firmware", f"{self.firmware!r} is not a firmware", hint="Use bios or uefi.")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256.lower()):
            raise Invalid("bad_sha256", f"{self.sha256!r} is not a SHA-256 sum", hint="Give its 64 hexadecimal digits.")
