"""The store protocol: ordered keys, JSON values, revisions, compare-and-set transactions.

It asks for no more than a distributed key-value store with transactions (etcd's v3 API) can serve, so that one may
take SQLite's place when hosts join a cluster. Keys look like paths: `addresses/triune0/10.87.0.12`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, its value (a JSON object) and the revision of its last change; revisions grow store-wide."""

    key: str
    value: dict[str, Any]
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value."""

    key: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; one that isn't there is no error."""

    key: str


class Store(Protocol):
    """Safe to use from several threads."""

    def get(self, key: str) -> Entry | None:
        """The entry, or None."""

    def scan(
        self, prefix: str, *, after: str | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[Entry]:
        """Entries whose keys begin with `prefix`, in key order; `after` excludes up to and with that key
        (before it, when `reverse`)."""

    def commit(
        self,
        writes: Sequence[Put | Delete],
        *,
        expect: Mapping[str, int] | None = None,
        durable: bool = True,
        vital: bool = True,
    ) -> int:
        """Apply all writes at once, or none; returns the new revision.

        `expect` maps keys to the revision they must have, 0 for "must not exist"; a mismatch raises
        Conflict("store_conflict"). `durable` False allows the last moments to be lost with the power, never torn.
        On a full disk only what is `vital` may use the room kept for it: stopping and removing instances needs that.
        """

    def room(self) -> int | None:
        """Bytes that can still be written, None where that can't be told."""

    def close(self) -> None:
        """Release it."""
