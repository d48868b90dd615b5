"""Crash points for the fault-injection tests.

`TRIUNE_CRASH_AT=launch:lxc-mount` makes the daemon kill itself with SIGKILL at that step. Off unless the variable
is set when the daemon starts.
"""

from __future__ import annotations

import os
import signal

_CRASH_AT = os.environ.get("TRIUNE_CRASH_AT", "")


def crash_point(name: str) -> None:
    """Die here, as by `kill -9`, if the environment asked for this point."""
    if _CRASH_AT and name == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)
