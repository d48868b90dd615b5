"""Where what is measured lies: in memory where it has room; writers to a disk are held back as the kernel likes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

SHARED = Path("/dev/shm")
_SPARE = 4 << 30


def steady(size: int, otherwise: Path) -> Path:
    """A folder for so many bytes: below /dev/shm, or below `otherwise` where memory is short."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available,) = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    roomy = SHARED.is_dir() and min(available, shutil.disk_usage(SHARED).free) >= size + _SPARE
    return SHARED / f"triune-bench-{os.getpid()}" if roomy else otherwise


def words(folder: Path) -> str:
    """Where that is, for a row."""
    return "in memory" if folder.is_relative_to(SHARED) else "on disk"


def touched(size: int) -> None:
    """Have so much of the free memory written to once, and free again.

    The host of a virtual machine gives it a page when it is first written to: a GiB of those takes five times as long.
    """
    with tempfile.TemporaryFile(dir=SHARED) as out:
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            out.write(block)
