"""What a scan found and how far it came, in a folder that can be saved, reopened and moved to another machine.

It is one SQLite file. A source is known by its size and a digest of blocks sampled over it, not by its name, so that
the session of one medium is never used with another.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from triune.disks.source import Source, Unreadable
from triune.domain.errors import Conflict, Failed

_FILE = "scan.sqlite"
_FORMAT = 1
_SAMPLES = 64
_SAMPLE = 4096
_TABLES = """
CREATE TABLE source (id INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, digest TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0, UNIQUE (size, digest));
CREATE TABLE object (source INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, own INTEGER NOT NULL,
    PRIMARY KEY (source, at, kind)) WITHOUT ROWID;
CREATE INDEX object_kind ON object (kind, source, at);
CREATE TABLE unreadable (source INTEGER NOT NULL, at INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (source, at)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A structure that tells by itself what it is: of `kind` at `at` of its source.

    `own` is the volume offset it says it has, or another number of its own; 0 where it says nothing.
    """

    at: int
    kind: str
    own: int = 0


class Session:
    """Marks by source, positions up to which sources are scanned, and ranges that can't be read.

    Sources are numbered in the order of `sources`.
    """

    def __init__(self, sources: Sequence[Source], folder: Path | None = None) -> None:
        """Open the session in `folder`, begin it there, or keep it no longer than this object lives.

        Raises Conflict("other_source") where the folder's session is of other sources, Failed("bad_session").
        """
        self.sources = tuple(sources)
        self.folder = folder
        place = ""  # SQLite's own temporary file, gone with the connection
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            place = str(folder / _FILE)
        try:
            self._db = sqlite3.connect(place, check_same_thread=False)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._begin()
            self._ids = self._identify()
        except sqlite3.Error as error:
            raise Failed(
                "bad_session", f"the session in {folder} can't be used: {error}", hint="Name another folder."
            ) from None

    def done(self, source: int) -> int:
        """Up to which offset the source is scanned."""
        row = self._db.execute("SELECT done FROM source WHERE id = ?", (self._ids[source],)).fetchone()
        return int(row[0])

    def add(self, source: int, marks: Iterable[Mark], done: int) -> None:
        """Record what was found up to `done`, all or nothing."""
        number = self._ids[source]
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?)",
                ((number, mark.at, mark.kind, mark.own) for mark in marks),
            )
            self._db.execute("UPDATE source SET done = ? WHERE id = ?", (done, number))

    def add_unreadable(self, source: int, at: int, length: int) -> None:
        """Record a range that the medium refused."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?)", (self._ids[source], at, length))

    def marks(self, source: int, *kinds: str) -> Iterator[Mark]:
        """Those of some kinds, or all, in ascending order of offsets within a kind."""
        for kind in kinds or self.kinds(source):
            rows = self._db.execute(
                "SELECT at, kind, own FROM object WHERE kind = ? AND source = ? ORDER BY at",
                (kind, self._ids[source]),
            )
            for at, name, own in rows:
                yield Mark(at, name, own)

    def kinds(self, source: int) -> dict[str, int]:
        """How many marks there are of each kind."""
        rows = self._db.execute(
            "SELECT kind, count(*) FROM object WHERE source = ? GROUP BY kind", (self._ids[source],)
        )
        return dict(rows.fetchall())

    def unreadable(self, source: int) -> list[tuple[int, int]]:
        """The (offset, length) ranges that the medium refused."""
        rows = self._db.execute("SELECT at, length FROM unreadable WHERE source = ? ORDER BY at", (self._ids[source],))
        return [(int(at), int(length)) for at, length in rows]

    def close(self) -> None:
        """Let it go; what is recorded stays in its folder."""
        self._db.close()

    def _begin(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_FORMAT}; COMMIT;")
        elif version != _FORMAT:
            raise sqlite3.DatabaseError(f"it is of format {version}, this program knows {_FORMAT}")

    def _identify(self) -> list[int]:
        """The numbers of the sources. One more may join them, as long as one is known."""
        rows = self._db.execute("SELECT size, digest, id, name FROM source ORDER BY id").fetchall()
        known = {(size, digest): int(number) for size, digest, number, _ in rows}
        keys = [(source.size, sampled(source)) for source in self.sources]
        if known and not any(key in known for key in keys):
            raise Conflict(
                "other_source",
                f"the session in {self.folder} is of {', '.join(row[3] for row in rows)}, and not of "
                f"{', '.join(source.name for source in self.sources)}",
                hint="Name the sources it was begun with, or another folder.",
            )
        with self._db:
            for source, key in zip(self.sources, keys, strict=True):
                if key not in known:
                    row = self._db.execute(
                        "INSERT INTO source (name, size, digest) VALUES (?, ?, ?)", (source.name, *key)
                    )
                    known[key] = int(row.lastrowid or 0)
        return [known[key] for key in keys]


def sampled(source: Source) -> str:
    """A digest of the source's size and of blocks spread over it: the same on every machine."""
    digest = hashlib.sha256(str(source.size).encode())
    last = max(0, source.size - _SAMPLE)
    for number in range(_SAMPLES):
        at = last * number // (_SAMPLES - 1) // 512 * 512
        try:
            digest.update(source.read(at, _SAMPLE))
        except Unreadable:
            digest.update(b"unreadable")
    return digest.hexdigest()
