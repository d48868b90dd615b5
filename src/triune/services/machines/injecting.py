"""Drivers for virtio, put into the copy of a machine before its first start: by virt-v2v's tool, where it is installed.

It runs programs of the guest (update-initramfs, dracut) in a small virtual machine of libguestfs's. That has no network
here, else they would reach what serves on the host's loopback. All its processes end with the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed, Unsupported
from triune.domain.machine import Machine
from triune.domain.units import format_duration
from triune.host import kvm
from triune.host.run import Result
from triune.host.watched import run_told
from triune.services.machines.planning import is_windows

TOOL = "virt-v2v-in-place"
_PLACES = "/usr/local/bin:/usr/bin:/usr/local/libexec:/usr/libexec"
_VIRTIO_WIN = Path("/usr/share/virtio-win")
# libguestfs-common's Firstboot wants one of them: the service that runs scripts at a Windows's next start, those that
# take VMware's tools out among them.
_VIRT_TOOLS = Path("/usr/share/virt-tools")
_SERVICES = ("rhsrvany.exe", "pvvxsvc.exe")
_KERNELS = (("/boot", "vmlinu?-*"), ("/lib/modules", "*/vmlinuz"))  # as supermin looks for them
_LIMIT = 1800.0  # seconds
_APART = ("setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
          "--")  # fmt: skip
# What an administrator may say to libguestfs: another kernel for its machine, another backend, folders.
_OURS = re.compile(r"LIBGUESTFS_|SUPERMIN_|VIRTIO_WIN$|VIRT_TOOLS_DATA_DIR$")
# Emulated, code is translated anew for each address it runs at. With programs at random addresses there are soon so
# many translations of one page (each program that ran has its own) that QEMU 7.2 takes minutes to forget them.
_SLOW = {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg", "LIBGUESTFS_APPEND": "norandmaps"}
_SOCKETS = re.compile(rb"/tmp/libguestfs[A-Za-z0-9]{6}(?=/)")
_NOTED = "sockets"
_WITHOUT = "does not have virtio drivers"
# For a version of Windows that virtio-win has nothing for, at all or for cards. Ours are on virtio then all the same.
_NO_DRIVERS, _NO_CARD = "no virtio drivers available", "no virtio network driver"
_CARD = "its network cards have no driver: import it with --card e1000e"
_MOST = 50
_LAST = 3


@dataclass(frozen=True, slots=True)
class Injected:
    """What the tool did: its name, how long it took, and what it wants to be known."""

    tool: str
    seconds: float
    warnings: tuple[str, ...] = ()


def require(guest: str) -> Path:
    """The tool. `guest` is the origin's word for the system.

    Raises Unsupported("tool_missing", "no_kernel", "no_virtio_win", "no_virt_tools").
    """
    tools = {name: shutil.which(name, path=_PLACES) for name in (TOOL, "nbdkit")}
    found = tools[TOOL]
    if found is None or None in tools.values():
        missing = next(name for name, path in tools.items() if path is None)
        raise Unsupported(
            "tool_missing",
            f"{missing}, which is needed to put drivers into machines, is not installed on this host",
            hint="Run: apt-get install --no-install-recommends virt-v2v nbdkit (or leave --inject-drivers out)",
            tool=missing,
        )
    if not _has_kernel():
        raise Unsupported(
            "no_kernel",
            "this host has no kernel in /boot for the machine that puts drivers into others",
            hint="Install one, or name one in the daemon's environment: SUPERMIN_KERNEL, SUPERMIN_MODULES",
        )
    if is_windows(guest):
        _require_for_windows()
    return Path(found)


def _require_for_windows() -> None:
    drivers = Path(os.environ.get("VIRTIO_WIN") or _VIRTIO_WIN)
    if not drivers.exists():
        raise Unsupported(
            "no_virtio_win",
            f"{drivers} is not there: Windows needs the drivers of virtio-win",
            hint="Copy what is in virtio-win.iso there, or leave --inject-drivers out.",
        )
    helpers = Path(os.environ.get("VIRT_TOOLS_DATA_DIR") or _VIRT_TOOLS)
    if not any((helpers / name).exists() for name in _SERVICES):
        raise Unsupported(
            "no_virt_tools",
            f"{helpers} has no rhsrvany.exe, which {TOOL} needs for every Windows",
            hint="Copy rhsrvany.exe there (Fedora's package mingw32-srvany has it, no Debian package does), "
            "or leave --inject-drivers out.",
        )


def _has_kernel() -> bool:
    if any(os.environ.get(name) for name in ("SUPERMIN_KERNEL", "LIBGUESTFS_PATH")):
        return True
    return any(next(Path(folder).glob(name), None) for folder, name in _KERNELS)


def inject(
    machine: Machine,
    disks: Sequence[tuple[str, Path]],
    work: Path,
    tell: Callable[[str], None],
    *,
    limit: float = _LIMIT,
) -> Injected:
    """Put them into the disks (slot and qcow2 file, in their order). What fails leaves them as unusable as it likes.

    `work` is a folder of its own below one that lasts (where libguestfs keeps its machine): made here, and removed.
    `tell` is called some times a second, and ends it by raising. Raises Failed("drivers_failed", "command_timeout").
    """
    tool = require(machine.guest)
    begun = time.monotonic()
    said = _Said()
    work.mkdir(mode=0o700, parents=True)
    try:
        description = work / "machine.xml"
        description.write_text(_description(machine, disks))
        # libguestfs takes passt where it is found, which refuses to run without a network to copy.
        (work / "passt").symlink_to("/bin/false")

        def tick() -> None:
            spent = time.monotonic() - begun
            if spent > limit:
                raise Failed(
                    "command_timeout",
                    f"{TOOL} did not finish within {format_duration(limit)}",
                    hint="Leave --inject-drivers out, or try again on a quieter host.",
                )
            _note_sockets(work)
            tell(f"{said.last or 'starting'} ({format_duration(spent)})")

        argv: list[str | Path] = [
            *_APART,
            tool,
            "--machine-readable=stream:stdout",
            "--root",
            "single",
            "-i",
            "libvirtxml",
            description,
        ]
        ended = run_told(argv, line=said.hear, tick=tick, env=_environment(work), patience=0.1)
    finally:
        forget({"folder": str(work)})
    _require_good(machine.name, ended, said)
    without_card = any(_NO_CARD in warning for warning in said.warnings)
    warnings = (*said.warnings, *([_CARD] if without_card else []))
    return Injected(TOOL, round(time.monotonic() - begun, 3), warnings)


def forget(data: Mapping[str, Any]) -> None:
    """Remove the folder of an injection that is over, or was cut off, and its sockets."""
    folder = Path(data["folder"])
    with contextlib.suppress(OSError):
        shutil.rmtree((folder / _NOTED).readlink(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _note_sockets(work: Path) -> None:
    """Root's libguestfs has its sockets in a folder of /tmp, whatever it is told, and leaves it there when it is ended.

    That is known from the command line of its QEMU, which names our folder too.
    """
    if (work / _NOTED).is_symlink():
        return
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if os.fsencode(work) in line and (found := _SOCKETS.search(line)):
                (work / _NOTED).symlink_to(os.fsdecode(found.group()))
                return


@dataclass(slots=True)
class _Said:
    """Its messages, one JSON object in each line."""

    last: str = ""
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    without: bool = False

    def hear(self, line: bytes) -> None:
        try:
            told = json.loads(line)
            kind, text = str(told["type"]), " ".join(str(told["message"]).split())
        except (ValueError, KeyError, TypeError):
            return
        self.without = self.without or _WITHOUT in text
        if kind == "message":
            self.last = text
        elif kind in ("warning", "error"):
            kept = self.warnings if kind == "warning" else self.errors
            kept += [text] if len(kept) < _MOST else []


def _require_good(name: str, ended: Result, said: _Said) -> None:
    if ended.status == 0 and not said.without:
        return
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    why = (
        said.errors
        or [warning for warning in said.warnings if _NO_DRIVERS in warning]
        or ["the kernel of its system has none"] * said.without
        or lines[-_LAST:]
        or [said.last or "no message"]
    )
    raise Failed(
        "drivers_failed",
        f"{TOOL} could not put drivers into {name}: {' / '.join(why)}",
        hint="Leave --inject-drivers out: its devices keep the kinds that its system has drivers for.",
        status=ended.status,
        warnings=said.warnings,
    )


def _environment(work: Path) -> dict[str, str]:
    proof = kvm.prove()
    slow = not proof.usable or proof.cpu != kvm.HOST_CPU
    return {
        "LIBGUESTFS_BACKEND": "direct",
        **(_SLOW if slow else {}),
        "LIBGUESTFS_CACHEDIR": str(work.parent),
        **{key: value for key, value in os.environ.items() if _OURS.match(key)},
        "TMPDIR": str(work),
        "PATH": f"{work}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def _description(machine: Machine, disks: Sequence[tuple[str, Path]]) -> str:
    """As libvirt writes it. The bus is that of the origin: names of disks in the guest's files are changed from it."""
    root = ET.Element("domain", {"type": "qemu"})
    ET.SubElement(root, "name").text = machine.name
    ET.SubElement(root, "memory").text = str(machine.memory // 1024)
    ET.SubElement(root, "vcpu").text = str(machine.cpus)
    ET.SubElement(ET.SubElement(root, "os"), "type").text = "hvm"
    devices = ET.SubElement(root, "devices")
    for number, (slot, path) in enumerate(disks):
        bus, prefix = ("ide", "hd") if slot.startswith("ide") else ("scsi", "sd")
        disk = ET.SubElement(devices, "disk", {"type": "file", "device": "disk"})
        ET.SubElement(disk, "driver", {"name": "qemu", "type": "qcow2"})
        ET.SubElement(disk, "source", {"file": str(path)})
        ET.SubElement(disk, "target", {"dev": f"{prefix}{_letters(number)}", "bus": bus})
    return ET.tostring(root, encoding="unicode")


def _letters(number: int) -> str:
    """a to z, then aa, ab, …, as Linux names disks."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text
