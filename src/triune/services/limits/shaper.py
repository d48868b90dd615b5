"""Who limits network traffic: on the host's end of each card, whatever engine the instance runs on."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from triune.host import tc

_GOING = 2.0
_POLL = 0.2


class Shaper(Protocol):
    """Limits the traffic of a card by its interface on the host."""

    def why_not(self) -> str:
        """Why no traffic can be limited on this host, in one sentence; "" when it can."""

    def shape(self, interface: str, inbound: int | None, outbound: int | None) -> None:
        """Limit to bits/s towards the instance and from it; None: no limit. Repeating is cheap and mends what is wrong.

        Raises Failed or Unsupported. What the interface had is put back where it raises.
        """

    def sweep(self) -> None:
        """Remove what is left of limits on interfaces that are gone. Cheap where there is nothing."""


class HostShaper:
    """The kernel's queues on this host (see host.tc)."""

    def __init__(self) -> None:
        # Setting a limit is several commands; an instance's start is told by its operation and by its engine at once.
        self._lock = threading.Lock()
        self._proved = False

    def why_not(self) -> str:
        """See host.tc.why_not; what has worked once is not tried again."""
        with self._lock:
            reason = "" if self._proved else tc.why_not()
            self._proved = not reason
        return reason

    def shape(self, interface: str, inbound: int | None, outbound: int | None) -> None:
        """See host.tc.shape."""
        with self._lock:
            if inbound is None and outbound is None:
                tc.clear(interface)
            else:
                tc.shape(interface, tc.Rates(towards=inbound, back=outbound))

    def sweep(self) -> None:
        """See host.tc.sweep. An interface may be there for a moment after its instance has stopped."""
        deadline = time.monotonic() + _GOING
        while not tc.sweep() and tc.helpers() and time.monotonic() < deadline:
            time.sleep(_POLL)
