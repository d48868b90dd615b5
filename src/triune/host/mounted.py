"""What kind of thing of the host's is shown to an instance."""

from __future__ import annotations

import stat
from pathlib import Path

from triune.domain.isolation import HostMount


def shown(source: str, target: str, *, read_only: bool) -> HostMount:
    """A bind mount as a fact; what is not there (any more) counts as a folder."""
    return HostMount(source=source, target=target, read_only=read_only, kind=_kind(Path(source)))


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "folder"
    if stat.S_ISSOCK(mode):
        return "socket"
    if stat.S_ISBLK(mode):
        return "disk"
    if stat.S_ISCHR(mode):
        return "device"
    return "folder" if stat.S_ISDIR(mode) else "file"
