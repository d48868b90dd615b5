"""lxcfs: files of /proc and /sys that show a container its limits in place of the host's CPUs and memory.

LXC's own configuration mounts them where lxcfs runs at a container's start (Debian: common.conf.d/00-lxcfs.conf).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOLDER = Path("/var/lib/lxcfs")
ENABLE = "--enable-cfs"
"""lxcfs's option to show CPU limits; without it it shows those of memory only."""
PID_FILE = "/run/lxcfs.pid"
_HOOK = Path("/usr/share/lxc/config/common.conf.d/00-lxcfs.conf")


def why_not() -> str:
    """Why containers started now see the host's CPUs and memory, in one sentence; "" where they see their limits."""
    if shutil.which("lxcfs", path="/usr/sbin:/usr/bin:/usr/local/bin") is None:
        return "lxcfs is not installed; run: triune setup"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "there is no /dev/fuse, which lxcfs needs"
    if not os.path.ismount(FOLDER):
        return "lxcfs does not run; run: triune setup"
    if not _HOOK.exists():
        return f"LXC is not told to mount its files: {_HOOK} is missing"
    return ""


def shown() -> str:
    """What containers started now see, in one sentence."""
    if why := why_not():
        return why
    if blind() is not None:
        return f"inside, the limit is what a container sees of memory, but not of CPU: lxcfs lacks {ENABLE}"
    return "inside, the limits are what a container sees of CPU and memory"


def blind(root: Path = Path("/")) -> int | None:
    """The pid of an lxcfs that runs and was started without showing CPU limits; None where there is no such."""
    try:
        pid = int((root / PID_FILE.lstrip("/")).read_text())
        argv = (root / f"proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    ours = Path(argv[0].decode(errors="replace")).name == "lxcfs"
    return pid if ours and ENABLE.encode() not in argv else None


def users(root: Path = Path("/")) -> list[int]:
    """Processes that see files of lxcfs elsewhere than where the host has them: those of containers."""
    found = []
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            lines = (folder / "mountinfo").read_text(errors="replace").splitlines()
        except OSError:  # it ended
            continue
        places = {line.split()[4] for line in lines if " - fuse.lxcfs " in line}
        if places - {str(FOLDER)}:
            found.append(int(folder.name))
    return sorted(found)
