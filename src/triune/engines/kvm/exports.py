"""A domain's disks as they are at one instant, for reading over NBD on a unix socket.

Of a running domain by libvirt's backup job in pull mode: from its beginning on, what the guest overwrites is set aside
first (formats: libvirt.org/formatbackup.html, formatcheckpoint.html). Of a stopped one by `qemu-nbd`, one per disk.
Socket, set-aside data and pid files lie in one folder, which QEMU's user owns and only it and root may enter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triune.domain.errors import TriuneError
from triune.engines.kvm import checkpoints
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.drives import Drive
from triune.engines.kvm.owner import qemu_owner
from triune.host import polling
from triune.host.nbd import dirty_ranges
from triune.host.run import run

SOCKET = "disks.sock"
BITMAP = "changed"
_READERS = 8
_ENDS = 10.0
# libvirt handles the events of all domains in turn; some wait 30 s for a backup, whose end stands behind them.
_JOB_ENDS = 180.0
_ASKED_AGAIN = 0.5
_POLL = 0.02

Ranges = tuple[tuple[int, int], ...]


def make_folder(client: Client, folder: Path) -> None:
    """An empty folder for QEMU's user."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    owner = qemu_owner(client)
    if owner is not None:
        os.chown(folder, *owner)


class Pull:
    """The backup job of a running domain."""

    def __init__(self, client: Client, domain: Any, name: str, folder: Path) -> None:
        self._client = client
        self._domain = domain
        self._name = name
        self._folder = folder
        self.socket = folder / SOCKET

    def begin(self, drives: Sequence[Drive], checkpoint: str, base: str | None) -> None:
        """Hold the instant, and begin the checkpoint with it. Raises what libvirt says, nothing begun."""
        tracked = [drive for drive in drives if drive.format == "qcow2"]
        backup = self._backup(drives, tracked, base)
        point = checkpoints.build(checkpoint, tracked, drives) if tracked else None
        with self._client.errors(self._name):
            self._domain.backupBegin(backup, point, 0)

    def _backup(self, drives: Sequence[Drive], tracked: Sequence[Drive], base: str | None) -> str:
        root = ET.Element("domainbackup", {"mode": "pull"})
        if base is not None:
            ET.SubElement(root, "incremental").text = base
        ET.SubElement(root, "server", {"transport": "unix", "socket": str(self.socket)})
        disks = ET.SubElement(root, "disks")
        for drive in drives:
            words = {"name": drive.target, "backup": "yes", "type": "file", "exportname": drive.target}
            if base is not None and drive in tracked:
                words |= {"exportbitmap": BITMAP}
            elif base is not None:
                words |= {"backupmode": "full"}
            disk = ET.SubElement(disks, "disk", words)
            ET.SubElement(disk, "scratch", {"file": str(self._folder / f"{drive.target}.scratch")})
        return ET.tostring(root, encoding="unicode")

    def changed(self, drive: Drive) -> Ranges | None:
        """What was written to a disk since the base."""
        return dirty(self.socket, drive.target, BITMAP) if drive.format == "qcow2" else None

    def end(self) -> None:
        """Let go of the instant, if it is ours that is held.

        libvirt says that a job is aborted before it has ended, and where QEMU refused: the next one would wait for it
        with the guest's file systems held still, or fail.
        """
        virt = library()
        deadline = time.monotonic() + _JOB_ENDS
        asked = -_ASKED_AGAIN
        while self._is_held() and time.monotonic() < deadline:
            if time.monotonic() - asked >= _ASKED_AGAIN:
                asked = time.monotonic()
                with contextlib.suppress(virt.libvirtError):
                    self._domain.abortJob()
            else:
                time.sleep(_POLL)

    def _is_held(self) -> bool:
        try:
            return str(self.socket) in self._domain.backupGetXMLDesc(0)
        except library().libvirtError:
            return False


class Served:
    """`qemu-nbd` for each disk of a stopped domain, as long as it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def socket(self, drive: Drive) -> Path:
        """Where a disk is served."""
        return self._folder / f"{drive.target}.sock"

    def begin(self, drive: Drive, bitmap: str | None) -> Ranges | None:
        """Serve a disk; returns what was written since the bitmap's beginning."""
        argv: list[str | Path] = ["qemu-nbd", "--read-only", "--persistent", "--fork", f"--shared={_READERS}"]
        argv += [f"--format={drive.format}", f"--export-name={drive.target}", f"--socket={self.socket(drive)}"]
        argv += [f"--pid-file={self._folder / drive.target}.pid"]
        run([*argv, *([f"--bitmap={bitmap}"] if bitmap else []), drive.path])
        return dirty(self.socket(drive), drive.target, bitmap) if bitmap else None

    def end(self) -> None:
        """Stop them all, those of a process that is gone too."""
        for file in self._folder.glob("*.pid"):
            pid = _serving(file, self._folder)
            if pid is None:
                continue
            with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as process:
                if _serving(file, self._folder) == pid:  # no other process that has its number since
                    signal.pidfd_send_signal(process.fileno(), signal.SIGTERM)
                    # Its pid file and its arguments go before it lets go of the disk, which a start would want.
                    polling.ready([process.fileno()], timeout=_ENDS)


def _serving(pid_file: Path, folder: Path) -> int | None:
    """The process of a pid file, proved by its arguments."""
    try:
        pid = int(pid_file.read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(folder) in arguments else None


def dirty(socket: Path, export: str, bitmap: str) -> Ranges | None:
    """The ranges that a bitmap tells as written; None where it can't be read: then all may be."""
    try:
        return tuple(dirty_ranges(socket, export, bitmap))
    except TriuneError:
        return None
