"""The store on SQLite: write-ahead log, one writer, as many reader connections as there are readers at once."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from triune.domain.errors import Conflict, Failed
from triune.store.base import Delete, Entry, Put

_SCHEMA_VERSION = 1
_RESERVE = 2**20
_REFILL_EVERY = 5.0
_SCHEMA = """
CREATE TABLE entry (
    key TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE counter (revision INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
"""


class SqliteStore:
    """A Store in one file. Raises Failed("store_failed") when the file cannot be used (full disk, damage).

    A file of some size beside it is given up when the disk is full, and taken again when there is room: what would
    make room, like removing an instance, has to be written down first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        # Not one per thread: threads come and go in a daemon, and would each leave an open file behind.
        self._readers: list[sqlite3.Connection] = []
        self._reserve = path.with_name(f"{path.name}-reserve")
        self._reserved_at = 0.0
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._explained():
            self._writer = self._connect()
            self._migrate()
        path.chmod(0o600)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10)
        connection.execute("PRAGMA journal_mode = WAL")
        # In KiB, of each connection: the kernel keeps the file's pages anyway.
        connection.execute("PRAGMA cache_size = -256")
        return connection

    def _migrate(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise Failed(
                "store_newer",
                f"{self._path} was written by a newer Triune (schema {version})",
                hint="Start the newer version, or move the file aside: instances live in their engines.",
            )
        if version == 0:
            self._writer.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Failed(
                "store_failed",
                f"the database {self._path} cannot be used: {error}",
                hint="Check free space and permissions of its folder: triune doctor",
            ) from error

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for one query; one that failed is not used again."""
        with self._explained():
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._readers.append(connection)

    def get(self, key: str) -> Entry | None:
        with self._reader() as reader:
            row = reader.execute("SELECT key, value, revision FROM entry WHERE key = ?", (key,)).fetchone()
        return _entry(row) if row else None

    def scan(
        self, prefix: str, *, after: str | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[Entry]:
        low, high = prefix, prefix + "\U0010ffff"
        if after is not None:
            low, high = (low, min(high, after)) if reverse else (max(low, after), high)
        first = ">" if after is not None and not reverse else ">="
        query = (
            f"SELECT key, value, revision FROM entry WHERE key {first} ? AND key < ?"  # noqa: S608 - constants
            f" ORDER BY key {'DESC' if reverse else 'ASC'} LIMIT ?"
        )
        with self._reader() as reader:
            rows = reader.execute(query, (low, high, -1 if limit is None else limit)).fetchall()
        return [_entry(row) for row in rows]

    def commit(
        self,
        writes: Sequence[Put | Delete],
        *,
        expect: Mapping[str, int] | None = None,
        durable: bool = True,
        vital: bool = True,
    ) -> int:
        with self._lock, self._explained():
            try:
                revision = self._commit(writes, expect or {}, durable=durable)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not (vital and self._give_up_reserve()):
                    raise
                return self._commit(writes, expect or {}, durable=durable)
            self._take_reserve()
            return revision

    def _commit(self, writes: Sequence[Put | Delete], expect: Mapping[str, int], *, durable: bool) -> int:
        # In WAL mode NORMAL skips the fsync of each commit; a torn database is impossible either way.
        self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            revision = self._apply(writes, expect)
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return revision

    def _take_reserve(self) -> None:
        if time.monotonic() - self._reserved_at < _REFILL_EVERY:
            return
        self._reserved_at = time.monotonic()
        with suppress(OSError), self._reserve.open("ab") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, _RESERVE)
            except OSError:
                file.truncate(0)  # a part of it is better left to others

    def _give_up_reserve(self) -> bool:
        """Whether that made any room."""
        self._reserved_at = time.monotonic()
        with suppress(OSError):
            held = self._reserve.stat().st_size
            self._reserve.unlink()
            return held > 0
        return False

    def _apply(self, writes: Sequence[Put | Delete], expect: Mapping[str, int]) -> int:
        execute = self._writer.execute
        for key, wanted in expect.items():
            row = execute("SELECT revision FROM entry WHERE key = ?", (key,)).fetchone()
            found = row[0] if row else 0
            if found != wanted:
                raise Conflict("store_conflict", f"{key} changed meanwhile", hint="Read it again and repeat.", key=key)
        (revision,) = execute("UPDATE counter SET revision = revision + 1 RETURNING revision").fetchone()
        for write in writes:
            if isinstance(write, Delete):
                execute("DELETE FROM entry WHERE key = ?", (write.key,))
            else:
                text = json.dumps(write.value, separators=(",", ":"), ensure_ascii=False)
                execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", (write.key, text, revision))
        return int(revision)

    def room(self) -> int | None:
        with suppress(OSError):
            disk = os.statvfs(self._path.parent)
            return disk.f_bavail * disk.f_frsize
        return None

    def close(self) -> None:
        with self._lock:
            for connection in [*self._readers, self._writer]:
                connection.close()
            self._readers.clear()


def _entry(row: tuple[str, str, int]) -> Entry:
    return Entry(row[0], json.loads(row[1]), row[2])
