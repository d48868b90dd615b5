"""Where what is measured lies: in memory where it has room; writers to a disk are held back as the kernel likes."""

from __future__ import annotations

import mmap
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
    """Have so much of the free memory written to, in large pages and in small ones, and free again.

    The host of a virtual machine that is given free pages back gives one anew when it is next written to: here that
    made a GiB of them cost 2.7 s instead of 0.2 s, and a start from a template 1.2 s instead of 0.8.
    """
    block = bytes(1 << 20)
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for _ in range(size >> 20):
            memory.write(block)
    with tempfile.TemporaryFile(dir=SHARED) as out:
        for _ in range(size >> 20):
            out.write(block)
