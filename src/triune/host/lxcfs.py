"""lxcfs: files of /proc and /sys that show a container its limits in place of the host's CPUs and memory.

LXC's own configuration mounts them where lxcfs runs at a container's start (Debian: common.conf.d/00-lxcfs.conf).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOLDER = Path("/var/lib/lxcfs")
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
