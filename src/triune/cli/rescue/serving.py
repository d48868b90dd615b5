"""A read-only file system at a folder here, served by a process of its own until it is unmounted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from triune.cli.problems import tell
from triune.domain.errors import Conflict, Failed, NotFound, Unsupported
from triune.host.fuse import Content, Server, attach, attach_by_helper

_THREADS = 4
_READY = b"1"


def show(make: Callable[[], Content], folder: Path, *, name: str, foreground: bool = False) -> int:
    """Mount what `make` gives at an empty folder; returns the exit code.

    `make` runs in the process that serves: it may keep files and threads of its own. What it raises is told.
    """
    if not folder.is_dir():
        raise NotFound("no_folder", f"there is no folder {folder}", hint=f"Make it: mkdir -p {folder}")
    if folder.is_mount() or any(folder.iterdir()):
        raise Conflict("folder_in_use", f"{folder} is not an empty folder", hint="Give another one.")
    if foreground:
        Server(make(), _attached(folder, name), cached=True).serve(_THREADS)
        return 0
    ready, told = os.pipe()
    child = os.fork()
    if child:
        os.close(told)
        with os.fdopen(ready, "rb") as pipe:
            if pipe.read(1) == _READY:
                return 0
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) or 1
    os.close(ready)
    os._exit(_serve(make, folder, name, told))


def _serve(make: Callable[[], Content], folder: Path, name: str, told: int) -> int:
    """In the process of its own: mount, tell that it is there, and answer."""
    try:
        folder = folder.absolute()
        server = Server(make(), _attached(folder, name), cached=True)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return tell(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.write(told, _READY)
    os.close(told)
    server.serve(_THREADS)
    return 0


def _attached(folder: Path, name: str) -> int:
    """The device of a mount at a folder. Raises Failed, Unsupported."""
    if shutil.which("fusermount3"):
        return attach_by_helper(folder, name)
    if os.geteuid() != 0:
        raise Unsupported("no_fuse", "fusermount3 is not installed here", hint="Run: apt-get install fuse3")
    try:
        return attach(folder, name)
    except OSError as error:
        raise Failed(
            "mount_failed", f"{folder} could not be mounted: {error.strerror}", hint="See: ls -l /dev/fuse"
        ) from None
