"""Waiting in tests, on machines that are busy and now and then stand still for seconds.

No test asserts `PATIENCE`: it only ends one that would hang. What a test asserts of time it measures with `Awake`, or
proves otherwise (what came before what, how often something was asked).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Seconds by the clock, which goes on while the machine stands still; pytest's own limit (pyproject.toml) is twice that.
PATIENCE = 600.0
_WITHIN = 60.0
_TICK = 0.01
_COUNTED = 0.05


class Awake:
    """A stopwatch that counts the seconds in which this process ran or could have run, not those in which the machine
    stood still.
    """

    NAME = "awake"

    def __enter__(self) -> Awake:
        """Begin."""
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, name=self.NAME, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        at, used = time.monotonic(), time.process_time()
        while not self._over.is_set():
            self._over.wait(_TICK)
            now, using = time.monotonic(), time.process_time()
            # A thread that works for long without letting go of the interpreter is counted by what it uses.
            self.seconds += min(now - at, _COUNTED + using - used)
            at, used = now, using


def until(condition: Callable[[], object], what: str = "", *, within: float = _WITHIN, pause: float = _TICK) -> float:
    """Wait for what another thread or process does; returns the seconds it took, as `Awake` counts them."""
    with Awake() as awake:
        while not condition():
            assert awake.seconds < within, what or f"it did not come about within {within:g} s"
            time.sleep(pause)
    return awake.seconds


def threads() -> set[threading.Thread]:
    """Those that run, without the stopwatch's own."""
    return {thread for thread in threading.enumerate() if thread.name != Awake.NAME}
