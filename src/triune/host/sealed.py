"""Programs run from a sealed copy in memory.

`lxc-attach` makes such a copy of itself at each start, so that a container can't write to it (CVE-2019-5736), and gives
up where the kernel holds a page of it for a moment: F_SEAL_WRITE is then EBUSY (Linux' mm/memfd.c, seen while memory is
reclaimed). Started from a copy that is sealed already, it runs from that (`is_memfd` of LXC's src/lxc/rexec.c).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

from triune.host.run import environment

# What LXC compares with, all of them.
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TRIES = 5  # the kernel itself waits 0.15 s in each
_lock = threading.Lock()
_copies: dict[tuple[str, int, int, int], int] = {}  # never closed: somebody may be about to start from one


def executable(program: str) -> str:
    """A path to run a program of the host by, for children of this process alone; its own name where it has no copy."""
    found = shutil.which(program, path=environment()["PATH"])
    if found is None:
        return program
    info = Path(found).stat()
    version = (found, info.st_dev, info.st_ino, info.st_mtime_ns)
    with _lock:
        if version not in _copies:
            try:
                _copies[version] = _copy(found, program)
            except OSError:
                return program
        return f"/proc/{os.getpid()}/fd/{_copies[version]}"


def _copy(path: str, name: str) -> int:
    for attempt in range(_TRIES):
        time.sleep(attempt / 10)
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with Path(path).open("rb") as source, open(fd, "wb", closefd=False) as target:
                shutil.copyfileobj(source, target)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            if not os.access(f"/proc/self/fd/{fd}", os.X_OK):  # the sysctl vm.memfd_noexec
                raise PermissionError(errno.EACCES, "a copy in memory can't be run", path)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EBUSY:
                raise
        else:
            return fd
    raise OSError(errno.EBUSY, "a copy in memory can't be sealed", path)
