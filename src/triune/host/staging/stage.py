"""The process that makes the view and runs a program in it.

Its standard input is one JSON object:

    {"folder": where, "argv": [...], "files": {NAME: text}, "trees": {NAME: [path, device number or 0]},
     "disks": {NAME: {"path": p | null, "socket": p | null, "export": e, "size": n, "pieces": [[index, time], ...]}}}

The program's working folder is the view; its exit status, output and environment are passed on.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triune.host import syscalls
from triune.host.fuse import Server, attach
from triune.host.nbd import open_disk
from triune.host.staging import steady
from triune.host.staging.pieces import Pieces

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Make the view, run the program, and return its status."""
    _die_with_parent()
    wanted = json.load(sys.stdin)
    folder = Path(wanted["folder"])
    os.umask(0o077)
    _private_mounts()
    syscalls.mount("triune-stage", folder, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0700")
    for name, text in wanted["files"].items():
        (folder / name).write_text(text)
    for name, (tree, number) in wanted["trees"].items():
        _show(Path(tree), folder, name, number)
    servers = [_serve(folder / name, disk) for name, disk in wanted["disks"].items()]
    os.chdir(folder)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    if not servers:
        os.execvpe(wanted["argv"][0], wanted["argv"], os.environ)  # noqa: S606 - an argv list, no shell
    status = _run(wanted["argv"])
    os.chdir("/")
    for name in wanted["disks"]:
        syscalls.umount(folder / name, syscalls.MNT_DETACH)
    for server in servers:
        os.waitpid(server, 0)
    return status


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _private_mounts() -> None:
    if _libc.unshare(_CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    syscalls.mount("none", Path("/"), "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")


def _show(tree: Path, folder: Path, name: str, number: int) -> None:
    """Mount a folder, read only, at its name in the view."""
    target = folder / name
    target.mkdir()
    if number:
        # Beside the view, not in it; what lies there goes with the namespace.
        scratch = Path(tempfile.mkdtemp(dir=folder))
        syscalls.mount("triune-stage", scratch, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0700")
        done = steady.mount(tree, target, scratch, number)
        syscalls.umount(scratch, syscalls.MNT_DETACH)
        scratch.rmdir()
        if done:
            return
    syscalls.mount(os.fspath(tree), target, "", syscalls.MS_BIND, "")
    syscalls.mount("", target, "", syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY, "")


def _serve(target: Path, disk: Mapping[str, Any]) -> int:
    """Mount the disk's pieces, and answer for them in a process of their own; returns its id."""
    target.mkdir()
    path, socket = (Path(disk[key]) if disk[key] else None for key in ("path", "socket"))
    reader = open_disk(path, socket, disk["export"])
    server = Server(Pieces(reader, disk["size"], dict(map(tuple, disk["pieces"]))), attach(target))
    child = os.fork()
    if child:
        server.leave()
        return child
    status = 1
    try:
        _die_with_parent()
        server.serve()
        reader.close()
        status = 0
    finally:
        os._exit(status)


def _run(argv: list[str]) -> int:
    child = os.fork()
    if not child:
        try:
            _die_with_parent()
            os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - an argv list, no shell
        finally:
            os._exit(127)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main())
