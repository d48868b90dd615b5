"""Sources that are addresses, not paths: which module opens which, imported when it is used."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triune.disks.source import FileSource, Source
from triune.domain.errors import Invalid
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.volume import Volume

# scheme: a module with `open_text(text, access) -> Source` and `open_store(text, access) -> Volume | None`,
# and `parted(text) -> (volume, path) | None`
_SCHEMES: Mapping[str, str] = {
    "esxi": "triune.services.rescue.esxi.opening",
    "esxi+ssh": "triune.services.rescue.esxi.opening",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme(text: str) -> str:
    """The scheme of an address; empty for a path. Raises Invalid("unknown_scheme").

    A file whose name looks like an address of another scheme is that file.
    """
    found = _SCHEME.match(text)
    if found is None:
        return ""
    name = found[1].lower()
    if name in _SCHEMES:
        return name
    if Path(text).exists():
        return ""
    raise Invalid(
        "unknown_scheme",
        f"nothing here opens {name}:// addresses",
        hint=f"Name a file, a device, or an address with {' or '.join(f'{known}://' for known in _SCHEMES)}.",
    )


def open_plain(text: str, access: Access | None = None) -> Source:
    """The bytes that a path or an address names, whatever is in them. `access` is how hosts are entered."""
    name = scheme(text)
    if not name:
        return FileSource(Path(text))
    source: Source = _module(name).open_text(text, access or Access())
    return source


def open_stores(names: Sequence[str], access: Access | None = None) -> tuple[list[Volume], list[str]]:
    """The volumes that addresses are by themselves, as a host shows them, and the names of sources to look into."""
    volumes: list[Volume] = []
    rest: list[str] = []
    for text in names:
        name = scheme(text)
        volume: Volume | None = _module(name).open_store(text, access or Access()) if name else None
        if volume is None:
            rest.append(text)
        else:
            volumes.append(volume)
    return volumes, rest


def parted(text: str) -> tuple[str, str] | None:
    """The address of a volume and the path on it, of the address of a file; None for anything else."""
    name = scheme(text)
    found: tuple[str, str] | None = _module(name).parted(text) if name else None
    return found


def _module(name: str) -> Any:
    return importlib.import_module(_SCHEMES[name])
