"""Asking an engine for an ability it may not have."""

from __future__ import annotations

from typing import TypeVar

from triune.domain.errors import Unsupported
from triune.engines.base import Engine

F = TypeVar("F")


def require_facet(engine: Engine, facet: str, value: F | None) -> F:
    """The facet. Raises Unsupported("facet_missing") with the engine's own reason where it is None."""
    if value is None:
        reason = engine.probe().missing.get(facet, "this engine has no such ability")
        raise Unsupported("facet_missing", f"{engine.title} can't do that here: {reason}", hint="See: triune doctor")
    return value
