"""How much of a damaged volume comes back, and whether anything is called whole that isn't."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.rescue import oracle
from tests.rescue.oracle import Fact
from triune.disks.content import Lost
from triune.domain.rescue import FileKind, Found, Status
from triune.services.rescue.volume import Volume

WHOLE = {Status.INTACT, Status.RECOVERED}
KINDS = {FileKind.FILE: "file", FileKind.LINK: "link", FileKind.RDM: "rdm", FileKind.FOLDER: "folder"}


@dataclass
class Score:
    """`total` files were there. `content` came back byte for byte, `paths` of these under their full path. `wrong`
    are called whole and aren't; `failed` raised something that no reader expects; `found` counts statuses, `volumes`
    what was found on the medium."""

    total: int = 0
    content: int = 0
    paths: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    volumes: int = 0

    def __str__(self) -> str:
        tail = f", wrong {len(self.wrong)}" if self.wrong else ""
        tail += f", failed {len(self.failed)}" if self.failed else ""
        return f"{self.content} / {self.paths} of {self.total}{tail}"


def digest_of(volume: Volume, found: Found) -> str:
    """The digest of a file's bytes; empty for what has none. Raises Lost."""
    if found.kind in {FileKind.FOLDER, FileKind.RDM}:
        return ""
    return oracle.digest(volume.open(found))


def score(volumes: Iterable[Volume], expected: Mapping[str, Fact]) -> Score:
    """Compare what was found with what was there: files and links; folders and raw devices count for no bytes."""
    wanted = {path: fact for path, fact in expected.items() if fact.kind in {"file", "link"}}
    result = Score(len(wanted))
    need = Counter((fact.size, fact.digest) for fact in wanted.values())
    for volume in volumes:
        one = _of_volume(volume, wanted, set(need))
        content = sum((one.whole & need).values())
        result.found.update(one.found)
        result.failed += one.failed
        if content > result.content or not result.volumes:
            # The volume that is meant; others are former ones on the same medium, of which nobody knows the truth.
            result.content, result.paths, result.wrong = content, one.paths, one.wrong
        result.volumes += 1
    return result


@dataclass
class _One:
    """What one volume gave."""

    whole: Counter[tuple[int, str]] = field(default_factory=Counter)
    paths: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)


def _of_volume(volume: Volume, wanted: Mapping[str, Fact], known: set[tuple[int, str]]) -> _One:
    one = _One()
    for found in volume.walk():
        one.found[found.status] += 1
        if found.kind not in {FileKind.FILE, FileKind.LINK} or found.status not in WHOLE:
            continue
        key = _key(volume, found, one)
        if key is None:
            continue
        fact = wanted.get(found.path)
        if key not in known or (fact is not None and key != (fact.size, fact.digest)):
            one.wrong.append(f"{found.path} is called {found.status}: {found.size} bytes")
            continue
        one.whole[key] += 1
        one.paths += fact is not None
    return one


def _key(volume: Volume, found: Found, one: _One) -> tuple[int, str] | None:
    try:
        return found.size, digest_of(volume, found)
    except Lost as lost:
        one.wrong.append(f"{found.path} is called {found.status}: {lost}")
    except Exception as error:
        one.failed.append(f"{found.path}: {error!r}")
    return None
