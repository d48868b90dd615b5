"""Crash points for the fault-injection tests.

`TRIUNE_CRASH_AT=launch:lxc-mount` makes the daemon kill itself with SIGKILL at that step; `TRIUNE_CRASH_AT=/PATH` at
the step that this file names, if it is there then. Off unless the variable is set when the daemon starts.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_CRASH_AT = os.environ.get("TRIUNE_CRASH_AT", "")


def crash_point(name: str) -> None:
    """Die here, as by `kill -9`, if the environment asked for this point."""
    if _CRASH_AT and name == _asked():
        os.kill(os.getpid(), signal.SIGKILL)


def _asked() -> str:
    if not _CRASH_AT.startswith("/"):
        return _CRASH_AT
    try:
        return Path(_CRASH_AT).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
