"""What a rescue finds: files of a volume that VMware left, with what can and what cannot be proved of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FileKind(StrEnum):
    """What a file on a volume is. `system` are the volume's own files (`.fbb.sf` …), `rdm` points to a raw device."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    RDM = "rdm"
    SYSTEM = "system"


class Status(StrEnum):
    """How much of a file is proved.

    `intact`: read by way of healthy structures alone. `recovered`: every byte is vouched for, but by structures found
    in another way than the volume's own. `partial`: ranges are missing or unproved, and listed. `deleted`: a deleted
    file whose content is vouched for by no more than its remains.
    """

    INTACT = "intact"
    RECOVERED = "recovered"
    PARTIAL = "partial"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file, folder or link of one volume.

    `path` is relative to the volume's root, `/` between names, as found (not yet safe for a host's file system).
    `key` identifies the file in its volume across runs. `size` in bytes. Times in seconds since the epoch. `missing`
    are (offset, length) ranges of the content in ascending order. `confidence` from 0 to 1, with its `reasons`;
    `evidence` names the structures that vouch for it. `target` is where a link points.
    """

    path: str
    key: str
    kind: FileKind
    size: int
    status: Status
    modified: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""
    missing: tuple[tuple[int, int], ...] = ()
    confidence: float = 1.0
    reasons: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
