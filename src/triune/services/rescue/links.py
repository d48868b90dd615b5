"""Where a path of this host leads."""

from __future__ import annotations

from pathlib import Path

from triune.domain.errors import Failed


def resolved(file: Path) -> Path:
    """Its path without links, whether it exists or not. Raises Failed("source_refused") where they lead in circles."""
    try:
        return file.resolve()
    except (OSError, RuntimeError):  # before Python 3.13 the latter
        raise Failed("source_refused", f"{file} is a link that leads in circles", hint="Mend the link.") from None
