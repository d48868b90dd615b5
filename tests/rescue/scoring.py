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
    are called whole and aren't; `failed` raised something that no reader expects; `found` counts statuses."""

    total: int = 0
    content: int = 0
    paths: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)

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
    known = {(fact.size, fact.digest) for fact in wanted.values()}
    result = Score(len(wanted))
    whole: Counter[tuple[int, str]] = Counter()
    for volume in volumes:
        for found in volume.walk():
            result.found[found.status] += 1
            if found.kind not in {FileKind.FILE, FileKind.LINK} or found.status not in WHOLE:
                continue
            key = _key(volume, found, result)
            if key is None:
                continue
            fact = wanted.get(found.path)
            if key not in known or (fact is not None and key != (fact.size, fact.digest)):
                result.wrong.append(f"{found.path} is called {found.status}: {found.size} bytes")
                continue
            whole[key] += 1
            result.paths += fact is not None
    need = Counter((fact.size, fact.digest) for fact in wanted.values())
    result.content = sum((whole & need).values())
    return result


def _key(volume: Volume, found: Found, result: Score) -> tuple[int, str] | None:
    try:
        return found.size, digest_of(volume, found)
    except Lost as lost:
        result.wrong.append(f"{found.path} is called {found.status}: {lost}")
    except Exception as error:
        result.failed.append(f"{found.path}: {error!r}")
    return None
