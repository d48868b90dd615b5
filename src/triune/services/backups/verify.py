"""Checking a repository: every byte is read, and what is damaged is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triune.domain.errors import TriuneError
from triune.host.staging.pieces import index_of
from triune.services.backups import stored
from triune.services.backups.repository import Repository, Tick
from triune.services.backups.stored import Stored

_TRIED = 200
"""So many chunks are tried one by one; of more, all that lie in a damaged pack are named."""
_PROBLEMS = 20


def verify(repository: Repository, tick: Tick) -> dict[str, Any]:
    """Read everything. Returns `{ok, repository, backups, damaged: [{chunk, backup, instance, files}], problems}`.

    `damaged` has one entry per damaged chunk and backup; backups that no entry names are whole.
    """
    known = repository.snapshots()
    said = repository.check(tick)
    shown = [one for one in known if stored.TAG in one.tags]
    result: dict[str, Any] = {"ok": not said, "repository": repository.place.address, "backups": len(shown)}
    if not said:
        return {**result, "damaged": [], "problems": []}
    found = _damage(repository, known, stored.damaged_packs(said))
    problems = [line.strip()[:300] for line in said.splitlines() if _is_problem(line)]
    return {**result, "damaged": found, "problems": problems[:_PROBLEMS]}


def _is_problem(line: str) -> bool:
    words = line.lower()
    return any(word in words for word in ("error", "want", "not exist", "missing", "damaged", "failed"))


def _damage(repository: Repository, known: Sequence[Stored], packs: Sequence[str]) -> list[dict[str, Any]]:
    users: list[Mapping[str, Any]] = []
    unknown = False
    for pack in packs:
        try:
            users += repository.users(pack)
        except (TriuneError, ValueError):
            unknown = True
    chunks = dict.fromkeys(str(user.get("id")) for user in users)
    bad = set(chunks)
    if len(chunks) <= _TRIED:
        bad = {chunk for chunk in chunks if not repository.has_blob(chunk)}
    places: dict[tuple[str, str], list[str]] = {}
    for user in users:
        if str(user.get("id")) in bad:
            place = (str(user["id"]), str(user.get("snapshot")))
            places.setdefault(place, []).append(str(user.get("path") or "/"))
    by_id = {one.id: one for one in known}
    found = [_entry(chunk, by_id.get(backup), backup, paths) for (chunk, backup), paths in places.items()]
    if unknown or not found:
        found += _broken_folders(repository, known, {entry["backup"] for entry in found})
    return found


def _broken_folders(repository: Repository, known: Sequence[Stored], named: set[str]) -> list[dict[str, Any]]:
    """Backups whose folders can't be listed any more: a damaged chunk that holds a folder hides what is below it."""
    lost = [one for one in known if one.short not in named and not repository.is_walkable(one.id)]
    return [_entry("", one, one.id, ["/"]) for one in lost]


def _entry(chunk: str, backup: Stored | None, identity: str, paths: Sequence[str]) -> dict[str, Any]:
    return {
        "chunk": chunk,
        "backup": backup.short if backup else identity[: stored.SHORT],
        "instance": backup.instance if backup else "",
        "time": backup.time.isoformat() if backup else None,
        "files": sorted({readable(path) for path in paths}),
    }


def readable(path: str) -> str:
    """A path in a backup as people know it: `root:/etc/passwd`, `disk0 at 17 MiB`."""
    part, slash, inside = path.strip("/").partition("/")
    index = index_of(inside)
    if index is not None:
        return f"{part} at {index} MiB"
    return f"{part}:/{inside}" if slash else part or "/"
