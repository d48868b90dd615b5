"""Which known escapes are open in what is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from triune.domain.isolation import Component, Isolation
from triune.services.audit.knowledge import Escape

_VERSION = re.compile(r"(?:\d+:)?v?(\d+(?:\.\d+)*)(?:[-~.]?rc\.?(\d+))?", re.ASCII | re.IGNORECASE)
_RELEASED = 1 << 30


def opened(escapes: Iterable[Escape], components: Iterable[Component]) -> list[tuple[Component, Escape]]:
    """Each program with each escape that its version has and its distribution has not mended."""
    return [
        (component, escape)
        for component in components
        for escape in escapes
        if escape.program == component.name
        and escape.name not in component.told
        and affected(component.version, escape.fixed)
    ]


def concerning(components: Iterable[Component], isolation: Isolation) -> list[Component]:
    """Those that run this instance: not runc, where another runtime (gVisor, Kata) gives it a kernel of its own."""
    return [component for component in components if component.name != "runc" or not isolation.own_kernel]


def affected(version: str, fixed: Sequence[str]) -> bool:
    """Whether a version comes before the mended ones. What is no version counts as mended: nothing is known of it.

    A series (`1.2`) that was mended is compared within itself; one that was not is affected as long as a later one was
    mended.
    """
    number = parsed(version)
    if number is None:
        return False
    mended = sorted(one for one in map(parsed, fixed) if one is not None)
    own = [one for one in mended if one[0][:2] == number[0][:2]]
    later = [one for one in mended if one[0][:2] > number[0][:2]]
    return number < own[0] if own else bool(later)


def parsed(version: str) -> tuple[tuple[int, ...], int] | None:
    """Numbers of a version, and of its release candidate, padded so that they compare; None where it has none."""
    match = _VERSION.match(version.strip())
    if not match:
        return None
    numbers = tuple(int(word) for word in match[1].split(".")[:4])
    return (*numbers, *(0,) * (4 - len(numbers))), int(match[2]) if match[2] else _RELEASED
