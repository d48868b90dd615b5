"""Names of domains that are no instances: no instance's name can have an underscore."""

from __future__ import annotations

PREFIX = "triune_template_"


def is_template(name: str) -> bool:
    """Whether the domain is one that boots to become a template."""
    return name.startswith(PREFIX)
