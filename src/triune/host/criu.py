"""CRIU, which writes down running processes: whether it works on this kernel, and what it says when it refuses."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.host.run import environment, run

_ERROR = re.compile(r"(?:\([0-9.]+\) *)?(?:\d+: )?Error \([^)]*\): *(.+)")
# What it says and then goes on.
_HARMLESS = re.compile(r"rlimit: Can't setup RLIMIT_NOFILE for self")
_CHECK = 20.0  # seconds
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
            return complaint(file.read(_LONGEST_LOG).decode(errors="replace"))
    except OSError:
        return None
