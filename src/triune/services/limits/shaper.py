"""Who limits network traffic: on the host's end of each card, whatever engine the instance runs on."""

from __future__ import annotations

from typing import Protocol

from triune.domain.errors import Unsupported


class Shaper(Protocol):
    """Limits the traffic of a card by its interface on the host."""

    def why_not(self) -> str:
        """Why no traffic can be limited on this host, in one sentence; "" when it can."""

    def shape(self, interface: str, inbound: int | None, outbound: int | None) -> None:
        """Limit to bits/s towards the instance and from it; None: no limit. Repeating is cheap and mends what is wrong.

        Raises Failed or Unsupported. What the interface had is put back where it raises.
        """


class NoShaper:
    """On hosts, and in tests, where nothing can shape."""

    def why_not(self) -> str:
        """Always the same."""
        return "this host has nothing that shapes network traffic"

    def shape(self, interface: str, inbound: int | None, outbound: int | None) -> None:
        """Refuse any limit; having none is granted."""
        if inbound is not None or outbound is not None:
            raise Unsupported(
                "no_shaping",
                f"the traffic of {interface} can't be limited: {self.why_not()}",
                hint="See: triune doctor",
            )
