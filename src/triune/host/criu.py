"""CRIU, which writes down running processes: whether it works on this kernel, and what it says when it refuses."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from triune.domain.errors import TriuneError
from triune.host.run import environment, run

_ERROR = re.compile(r"(?:\([0-9.]+\) *)?(?:\d+: )?Error \([^)]*\): *(.+)")
# What it says and then goes on.
_HARMLESS = re.compile(r"rlimit: Can't setup RLIMIT_NOFILE for self")
_PEER = struct.Struct("3i")
_CHECK = 20.0  # seconds
_LOOK = 0.005
_LONGEST_LOG = 8 << 20
_asked: dict[tuple[Path, int, int], str | None] = {}
_lock = threading.Lock()


def find(path: str | None = None) -> Path | None:
    """The program, among the folders of `path` (as in PATH; None: those of the programs that we start)."""
    found = shutil.which("criu", path=path or environment()["PATH"])
    return Path(found) if found else None


def trouble(program: Path) -> str | None:
    """Why this CRIU does not work here, as the end of a sentence; None where `criu check` is content.

    It is run once for each program: a kernel stays the same for as long as we run. Never raises.
    """
    try:
        facts = program.stat()
    except OSError as error:
        return f"{program} can't be read: {error.strerror}"
    key = (program, facts.st_mtime_ns, facts.st_size)
    with _lock:
        if key not in _asked:
            _asked[key] = _check(program)
        return _asked[key]


def _check(program: Path) -> str | None:
    try:
        done = run([program, "check"], check=False, timeout=_CHECK)
    except (TriuneError, OSError) as error:
        return f"criu check could not be run: {error}"
    if done.status == 0:
        return None
    text = (done.stdout + done.stderr).decode(errors="replace")
    lines = text.strip().splitlines()
    return f"criu check says: {complaint(text) or (lines[-1] if lines else f'status {done.status}')}"


def complaint(log: str) -> str | None:
    """What CRIU minds, from its log: its first error, which the others follow from. None without any."""
    found = (" ".join(match.group(1).split()) for match in _ERROR.finditer(log))
    return next((text[:300] for text in found if not _HARMLESS.match(text)), None)


def complaint_of(path: Path) -> str | None:
    """The same of a log file; None where there is none."""
    try:
        with path.open("rb") as file:
            return _complaint_in(file)
    except OSError:
        return None


def _complaint_in(file: IO[bytes]) -> str | None:
    return complaint(file.read(_LONGEST_LOG).decode(errors="replace"))


def why_not(info: Mapping[str, Any], socket_path: str) -> str | None:
    """Why the Docker engine at a socket can't keep the running state of containers; None where it can.

    `info` is what it says of itself (`GET /info`). Never raises.
    """
    path = _search_path(socket_path)
    program = find(path)
    if program is None:
        return "criu, which writes down running processes, is not installed"
    if not info.get("ExperimentalBuild"):
        return "Docker keeps the running state only in a daemon started with --experimental, and this one was not"
    if said := trouble(program):
        return f"CRIU does not work on this host: {said}"
    init = shutil.which(str(info.get("InitBinary") or "docker-init"), path=path)
    if init and Path(init).is_symlink():
        # Restoring fails with "mnt-v2: Can't remount …" (CRIU 4.1 and 4.2).
        target = Path(init).resolve()
        return (
            f"Docker's init program {init} is a symbolic link, which CRIU can't mount again; "
            f'what helps is "init-path": "{target}" in /etc/docker/daemon.json'
        )
    return None


def _search_path(socket_path: str) -> str:
    """PATH of the engine, which it finds CRIU by; ours where its own is not to be seen (socket activation)."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            sock.connect(socket_path)
            pid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        words = []
    own = environment()["PATH"]
    return next((os.fsdecode(word[5:]) for word in words if word.startswith(b"PATH=")), own)


class Overheard:
    """The log at a path, held open from the moment it is there: who runs CRIU may remove it as soon as CRIU fails."""

    def __init__(self, path: Path) -> None:
        """Begin to look for it."""
        self._path = path
        self._file: IO[bytes] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="criu-log", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self._file is None and not self._over.is_set():
            try:
                self._file = self._path.open("rb")
            except OSError:
                self._over.wait(_LOOK)

    def close(self) -> str | None:
        """What CRIU minds in it, None without any, where it never was, and the second time."""
        self._over.set()
        self._thread.join()
        file, self._file = self._file, None
        if file is None:
            return None
        with file:
            return _complaint_in(file)
