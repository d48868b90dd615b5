"""Data that came with this version: YAML beside the code that reads it."""

from __future__ import annotations

from importlib import resources
from typing import Any


def packaged(package: str, version: int, *path: str) -> dict[str, Any]:
    """A file's mapping; `path` is below the package's folder. Raises ValueError where it is not of this version."""
    import yaml

    text = resources.files(package).joinpath(*path).read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = yaml.load(text, Loader=loader)  # noqa: S506 - the safe loader, in C where there is one
    if not isinstance(data, dict) or data.get("version") != version:
        raise ValueError(f"{path[-1]} is not of version {version}")
    return data
