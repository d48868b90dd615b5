"""Where daemons of this host take orders: their sockets, who may open them, and listening ports."""

from __future__ import annotations

import grp
import stat
from collections.abc import Collection
from pathlib import Path

from triune.domain.isolation import Door
from triune.host import listeners


def socket_file(path: Path) -> Door | None:
    """A daemon's socket file with its group's members; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    try:
        group = grp.getgrgid(found.st_gid)
        name, members = group.gr_name, tuple(sorted(group.gr_mem))
    except KeyError:
        name, members = str(found.st_gid), ()
    return Door(kind="unix", address=str(path), mode=stat.S_IMODE(found.st_mode), group=name, owners=members)


def ports(numbers: Collection[int], program: str, *, guarded: Collection[int] = ()) -> list[Door]:
    """TCP listeners on these ports whose process is called so; `guarded` ones ask for a certificate."""
    found = [one for one in listeners.listeners() if one.protocol == "tcp" and one.port in numbers]
    if not found:
        return []
    owners = listeners.owners(found)
    return [
        Door(kind="tcp", address=f"{one.address or '0.0.0.0'}:{one.port}", guarded=one.port in guarded)  # noqa: S104 - told
        for one in found
        if owners.get(one.inode, "").startswith(f"{program} ")
    ]
