"""Snapshots on disk, beside the root they are of:

    DATA/snapshots/NAME/snapshot.json    what `domain.snapshot.Snapshot` says: {"version": 1, name, created, …}
    DATA/snapshots/NAME/config           the container's LXC configuration then
    DATA/snapshots/NAME/triune.json      its mark then
    DATA/snapshots/NAME/tree             what it had written: a copy of the upper layer, or a read-only subvolume
    DATA/snapshots/NAME/unwritten        there until all of it is on disk; holds the host's boot id (see `keep`)
    DATA/snapshots/.NAME.new             one that is being made, or being removed: nobody sees it

Each stands alone: none needs another, or the container's present state. They move with the container's folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed, NotFound
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.lxc import holding, roots
from triune.engines.lxc import mark as marks
from triune.engines.lxc.mark import Mark

TREE = "tree"
FILE = "snapshot.json"
_UNWRITTEN = "unwritten"
_VERSION = 1


def folder_of(data: Path, name: str) -> Path:
    """Where the snapshot is, or would be."""
    if "/" in name or name.startswith(".") or not name:
        raise _not_found(data, name)
    return data / "snapshots" / name


def fresh_folder(data: Path, name: str) -> Path:
    """Where it is while it is being made."""
    return data / "snapshots" / f".{folder_of(data, name).name}.new"


def require(data: Path, name: str, of: str) -> Path:
    """The snapshot's folder, for use. Raises NotFound("snapshot_not_found"), Failed("snapshot_unwritten")."""
    folder = folder_of(data, name)
    if not folder.is_dir():
        raise _not_found(data, name, of)
    _require_written(folder)
    return folder


def _not_found(data: Path, name: str, of: str = "") -> NotFound:
    owner = of or data.name
    return NotFound(
        "snapshot_not_found",
        f"{owner} has no snapshot {name!r}",
        hint=f"See what there is: triune snapshot list {owner}",
    )


def keep(data: Path, snapshot: Snapshot, config: bytes, mark: Mark) -> None:
    """Make a snapshot of what `fresh_folder` has the tree of.

    It counts at once, and is written to disk in the background: nobody waits for hundreds of megabytes. Only if the
    host loses its power meanwhile, its files may be empty: then `require` refuses it.
    """
    fresh = fresh_folder(data, snapshot.name)
    for name, text in ((_UNWRITTEN, _boot_id()), ("config", config), (marks.FILE, marks.dump(mark))):
        marks.write_file(fresh / name, text, durable=False)
    marks.write_file(fresh / FILE, dump(snapshot), durable=False)
    final = folder_of(data, snapshot.name)
    fresh.rename(final)
    holding.write_out_later(final, _UNWRITTEN)


def _boot_id() -> bytes:
    return Path("/proc/sys/kernel/random/boot_id").read_bytes()


def _require_written(folder: Path) -> None:
    try:
        boot = (folder / _UNWRITTEN).read_bytes()
    except FileNotFoundError:
        return
    if boot != _boot_id():
        raise Failed(
            "snapshot_unwritten",
            f"the host went down before the snapshot {folder.name} was on disk: its files may be empty",
            hint="Remove it, and use another.",
        )
    holding.write_out(folder, _UNWRITTEN)


def dump(snapshot: Snapshot) -> bytes:
    """The snapshot as JSON."""
    data: dict[str, Any] = {"version": _VERSION, **asdict(snapshot)}
    for key in ("created", "expires"):
        data[key] = data[key].isoformat() if data[key] else None
    return json.dumps(data, indent=1).encode() + b"\n"


def parse(text: bytes) -> Snapshot:
    """Read `dump`'s output. Raises ValueError when it is none."""
    try:
        data = json.loads(text)
        if data["version"] != _VERSION:
            raise ValueError(f"unknown version {data['version']!r}")
        return Snapshot(
            name=str(data["name"]),
            created=datetime.fromisoformat(data["created"]),
            consistency=Consistency(data["consistency"]),
            memory=bool(data["memory"]),
            size=None if data["size"] is None else int(data["size"]),
            parent=None if data["parent"] is None else str(data["parent"]),
            expires=datetime.fromisoformat(data["expires"]) if data["expires"] else None,
            schedule=str(data["schedule"]),
            comment=str(data["comment"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a snapshot: {error!r}") from None


def read_all(data: Path) -> list[Snapshot]:
    """Every snapshot, the oldest first. Raises Failed("snapshot_unreadable")."""
    found = [_read(folder) for folder in roots.folders(data / "snapshots") if not folder.name.startswith(".")]
    return sorted((one for one in found if one), key=lambda one: (one.created, one.name))


def _read(folder: Path) -> Snapshot | None:
    try:
        return parse((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None  # it is being removed
    except (ValueError, OSError) as error:
        raise Failed(
            "snapshot_unreadable",
            f"the file {folder / FILE} can't be read: {error}",
            hint=f"Restore it, or remove the snapshot {folder.name}.",
        ) from None


def remove(data: Path, name: str) -> None:
    """Remove a snapshot, whole or half-made. Gone: succeed. Raises Failed("not_removed")."""
    folder, hidden = folder_of(data, name), fresh_folder(data, name)
    _erase(hidden)
    if folder.is_dir():
        # Out of sight first: what is half removed is no snapshot.
        folder.rename(hidden)
        _erase(hidden)


def _erase(folder: Path) -> None:
    for tree in roots.folders(folder):
        roots.remove(tree)
    roots.remove(folder)
