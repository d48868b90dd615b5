"""From what the user names to disks. What reads volumes is not imported: a scan may need none of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from triune.disks.source import Source
from triune.services.rescue import schemes
from triune.services.rescue.containers import open_paths
from triune.services.rescue.esxi.access import Access


def open_sources(names: Sequence[str | Path], access: Access | None = None) -> list[Source]:
    """The disks that files and devices hold, whatever they are wrapped in; all or none are open afterwards.

    Addresses (`esxi://…`) are raw, and entered by `access`. Raises NotFound("no_source"), Failed("source_refused"),
    Invalid("bad_container"), and what hosts raise.
    """
    addresses = [name for name in names if isinstance(name, str) and schemes.scheme(name)]
    opened: list[Source] = []
    try:
        for address in dict.fromkeys(addresses):
            opened.append(schemes.open_plain(address, access))
        return opened + open_paths([Path(name) for name in names if name not in addresses])
    except BaseException:
        for source in opened:
            source.close()
        raise
