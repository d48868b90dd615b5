"""Which files of which volumes are meant: `volume:` prefixes, patterns, statuses."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from triune.domain.errors import Invalid, NotFound
from triune.domain.rescue import FileKind, Found, Status
from triune.services.rescue.volume import Volume

_NEAREST = 3
_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Named:
    """A volume with the name it goes by: its label or UUID, made different where two are alike, without `/`."""

    name: str
    volume: Volume


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file of a volume. `path` is what it is called in lists and manifests: with the volume's name in front where
    there are several."""

    named: Named
    found: Found
    path: str


def named(volumes: Sequence[Volume], only: str | None = None) -> list[Named]:
    """The volumes under their names; `only` picks one by name or UUID. Raises NotFound."""
    result: list[Named] = []
    used: set[str] = set()
    for number, volume in enumerate(volumes, 1):
        wished = (volume.label or volume.uuid).replace("/", "_") or f"volume{number}"
        name = wished if wished not in used else f"{wished}~{volume.uuid or number}"
        while name in used:
            name += "+"
        used.add(name)
        result.append(Named(name, volume))
    if only is None:
        return result
    picked = [one for one in result if only in (one.name, one.volume.uuid)]
    if not picked:
        there = ", ".join(one.name for one in result) or "none"
        raise NotFound("no_such_volume", f"there is no volume {only}", hint=f"There is: {there}.")
    return picked


def split(path: str, volumes: Sequence[Named]) -> tuple[list[Named], str]:
    """The volumes that a path is looked for in, and the path on them.

    `VOLUME:PATH` and `VOLUME/PATH` (as lists show it where there are several) name one; `:PATH` none.
    """
    if path.startswith(":"):
        return list(volumes), path[1:].strip("/")
    for mark in (":", "/"):
        if mark == "/" and len(volumes) < 2:
            break
        for one in volumes:
            for name in (one.name, one.volume.uuid):
                if name and path.startswith(name + mark):
                    return [one], path[len(name) + 1 :].strip("/")
    bare = path.strip("/")
    alone = [one for one in volumes if len(volumes) > 1 and bare == one.name]
    return (alone, "") if alone else (list(volumes), bare)


def shown(one: Named, path: str, volumes: Sequence[Named]) -> str:
    """What a path is called."""
    return f"{one.name}/{path}" if len(volumes) > 1 else path


def file(path: str, volumes: Sequence[Named]) -> Chosen:
    """The one file, folder or link at a path. Raises NotFound, and Invalid where two volumes have it."""
    where, bare = split(path, volumes)
    hits: list[Chosen] = []
    missed: NotFound | None = None
    for one in where:
        try:
            found = one.volume.find(bare)
        except NotFound as error:
            missed = missed or error
        else:
            hits.append(Chosen(one, found, shown(one, found.path, volumes)))
    if len(hits) > 1:
        names = ", ".join(hit.named.name for hit in hits)
        raise Invalid(
            "which_volume", f"several volumes have {path}: {names}", hint=f"Say {names.split(', ')[0]}:{bare}."
        )
    if hits:
        return hits[0]
    raise missed or NotFound("no_volume", "there is no volume to look in", hint="Name a source with a volume.")


def matches(path: str, pattern: str) -> bool:
    """Whether a path is meant: the same path or something below it, or a pattern of the whole path, or, where the
    pattern has no `/`, of the name."""
    if path == pattern or path.startswith(f"{pattern}/") or not pattern:
        return True
    if fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*"):
        return True
    return "/" not in pattern and fnmatchcase(path.rpartition("/")[2], pattern)


def select(
    volumes: Sequence[Named],
    patterns: Sequence[str] = (),
    *,
    statuses: Collection[Status] = (),
    deleted: bool = False,
    system: bool = False,
) -> Iterator[Chosen]:
    """All that patterns (or no pattern: everything but the volume's own files) name. Raises NotFound at its end for a
    pattern that named nothing."""
    wanted = [(pattern, *split(pattern, volumes)) for pattern in patterns]
    hit: set[str] = set()
    seen: list[str] = []
    deleted = deleted or Status.DELETED in statuses
    own = system or any(bare.rpartition("/")[2].startswith(".") for _, _, bare in wanted)
    for one in volumes:
        for found in one.volume.walk(deleted=deleted, system=own):
            path = shown(one, found.path, volumes)
            by = [pattern for pattern, where, bare in wanted if one in where and _meant(found, bare, system)]
            hit.update(by)
            if len(seen) < _REMEMBERED:
                seen.append(path)
            if (by or (not wanted and _meant(found, "", system))) and (not statuses or found.status in statuses):
                yield Chosen(one, found, path)
    lacking = [pattern for pattern in patterns if pattern not in hit]
    if lacking:
        raise unmatched(lacking[0], seen)


def _meant(found: Found, pattern: str, system: bool) -> bool:
    """The volume's own files are meant only where a pattern begins as their names do, or all are wanted."""
    own = found.kind is FileKind.SYSTEM and not system and not pattern.rpartition("/")[2].startswith(".")
    return not own and matches(found.path, pattern)


def unmatched(pattern: str, paths: Sequence[str]) -> NotFound:
    """The error for a pattern that names nothing, with what comes nearest."""
    name = pattern.rpartition("/")[2]
    near = difflib.get_close_matches(pattern, paths, _NEAREST)
    if not near:
        alike = difflib.get_close_matches(name, [path.rpartition("/")[2] for path in paths], _NEAREST)
        near = [path for path in paths if path.rpartition("/")[2] in alike][:_NEAREST]
    hint = f"Near it: {', '.join(near)}." if near else "List what there is with -R"
    return NotFound("no_match", f"nothing on the volume is called {pattern}", hint=hint)
