"""The TPM that swtpm emulates for a domain: whether one can be, and what it remembers.

libvirt keeps that in a folder of its own for each UUID, hands it to swtpm's user at each start, and removes it with the
domain (docs: libvirt.org/formatdomain.html#tpm-device). swtpm replaces the file as a whole at every change, so a copy
is never half of one. What a TPM remembers is copied with the machine wherever its disks are: a disk whose key is sealed
in the TPM opens with that TPM alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import xml.etree.ElementTree as ET
from pathlib import Path

from triune.domain.errors import Failed, Unsupported
from triune.engines.kvm.client import Client, library

STATES = Path("/var/lib/libvirt/swtpm")
PACKAGES = "swtpm swtpm-tools"
# libvirt starts no TPM without each of them.
_PROGRAMS = ("swtpm", "swtpm_setup", "swtpm_ioctl")
_LARGEST = 16 << 20
_FILES = {"1.2": "tpm1.2/tpm-00.permall", "2.0": "tpm2/tpm2-00.permall"}


def available() -> bool:
    """Whether this host can emulate one."""
    return all(shutil.which(program) for program in _PROGRAMS)


def emulated(root: ET.Element) -> bool:
    """Whether the domain has an emulated one."""
    return root.find("devices/tpm/backend[@type='emulator']") is not None


def require(root: ET.Element, name: str) -> None:
    """Raise Unsupported("no_tpm") where the domain has one that this host can't emulate."""
    if emulated(root) and not available():
        raise Unsupported(
            "no_tpm",
            f"{name!r} has a TPM, and swtpm, which emulates it, is not installed here",
            hint=f"Run: apt-get install --no-install-recommends {PACKAGES}",
        )


def require_known_place(root: ET.Element, name: str) -> None:
    """Raise Unsupported("tpm_elsewhere") where what it remembers lies where its definition says (libvirt 10.10)."""
    if root.find("devices/tpm/backend[@type='emulator']/source") is not None:
        raise Unsupported(
            "tpm_elsewhere",
            f"the TPM of {name!r} keeps what it remembers in a place of its own, which can't be copied with the disks",
            hint=f"See: virsh dumpxml {name} --xpath //tpm",
        )


def memory(root: ET.Element) -> Path | None:
    """The file with what it remembers, which is there after the first start; None for a domain without one."""
    backend = root.find("devices/tpm/backend[@type='emulator']")
    if backend is None:
        return None
    return STATES / root.findtext("uuid", "") / _FILES.get(backend.get("version", "2.0"), _FILES["2.0"])


def kept(root: ET.Element, snapshot: str) -> Path | None:
    """Where a snapshot's copy of it lies: with libvirt's own, so that it stays and goes with the domain."""
    file = memory(root)
    return file.parent.parent / f"{file.name}.{snapshot}" if file is not None else None


def define(client: Client, name: str, xml: str, remembered: Path | None) -> None:
    """Define a domain whose TPM remembers what is in the file. On an error there is no domain.

    The domain comes first: whatever removes it after a crash removes its TPM's folder along.
    """
    domain = client.call(lambda connection: connection.defineXML(xml), name=name)
    if remembered is None:
        return
    try:
        put(remembered, ET.fromstring(domain.XMLDesc(0)))  # noqa: S314 - from libvirt
    except BaseException:
        virt = library()
        with contextlib.suppress(virt.libvirtError):
            domain.undefineFlags(virt.VIR_DOMAIN_UNDEFINE_NVRAM)
        raise


def put(source: Path, root: ET.Element) -> None:
    """Let the domain's TPM, which must not run, remember what is in the file. Does nothing where one is missing."""
    file = memory(root)
    if file is None or not source.exists():
        return
    for folder, mode in ((STATES, 0o711), (file.parent.parent, 0o711), (file.parent, 0o700)):
        folder.mkdir(mode=mode, exist_ok=True)
    # made where swtpm's user can't write; libvirt gives it to that user when it starts
    half = file.parent.parent / f"{file.name}.new"
    half.unlink(missing_ok=True)
    copy(source, half)
    half.replace(file)


def copy(source: Path, target: Path) -> None:
    """Copy it into a new file for root's eyes only. Raises Failed("tpm_unreadable").

    Its folder is swtpm's own, which whoever breaks out of a guest may have become: a link in there is not followed.
    """
    try:
        with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
            state = os.fstat(stream.fileno())
            data = stream.read(_LARGEST + 1) if stat.S_ISREG(state.st_mode) else b""
    except OSError:
        data = b""
    if not 0 < len(data) <= _LARGEST:
        raise Failed(
            "tpm_unreadable",
            f"{source} is no file of a TPM's",
            hint=f"See: ls -l {source}; /var/log/swtpm/libvirt/qemu",
        )
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
        stream.write(data)
