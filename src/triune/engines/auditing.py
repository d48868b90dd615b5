"""The facet of audits: what holds an instance apart from the host, and how a launch can hold it tighter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from triune.domain.isolation import Exposure, Isolation


class Auditing(Protocol):
    """Reads; changes nothing.

    `hardened` are the settings, and `hardened_limits` the limits, that `launch --profile hardened` adds where the
    launch does not say otherwise.
    """

    hardened: Mapping[str, str]
    hardened_limits: Mapping[str, str]

    def isolation(self, name: str) -> Isolation:
        """The facts of one: a running one's as the kernel has them, a stopped one's as configured. Raises NotFound."""

    def exposure(self) -> Exposure:
        """The engine's programs and the doors to its daemon. Asked once for all instances."""
