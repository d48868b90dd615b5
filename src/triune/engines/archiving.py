"""The facet of backups: what a backup reads of an instance, and what a restore gets back.

A backup goes like this, all of it inside one operation; `NAME` is the instance:

    described = archiving.describe(NAME)
    archive = archiving.open(NAME, base, progress)      # nothing is held still yet, unless `still`
    ... pass 1 reads all parts, only where the archive is not still ...
    archive.hold()                                      # from here on nothing changes
    ... the pass that counts; after pass 1 it reads only what has changed meanwhile ...
    archive.release()                                   # it goes on
    archive.keep(BACKUP)                                # only where the backup is complete and in the repository
    archive.close()                                     # always

After a crash in between `archiving.abandon(NAME, running=…)` is called, however far it had come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from triune.domain.errors import Conflict
from triune.domain.instance import InstanceSpec
from triune.domain.network import Nic
from triune.domain.operation import Progress
from triune.domain.pool import PoolPlace


class PartKind(StrEnum):
    """A `disk` is a block disk as its guest sees it (raw), a `tree` a folder with all below it, an `image` the OCI
    image that a container's writable layer stands on, kept once per repository."""

    DISK = "disk"
    TREE = "tree"
    IMAGE = "image"


Ranges = tuple[tuple[int, int], ...]
"""(offset, length) in bytes, ascending, not overlapping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of an instance's data.

    `name` is made of a-z, 0-9, '-' and '.', and the same at every backup of the instance (root, disk0, volume-data).

    A tree is read at `path`: owners, modes and times as they are inside (ids 0-based), without what is mounted below
    it. What has not changed must keep its inode's number, size, mtime and ctime from one backup to the next, else it is
    read again (the same content is never stored twice).

    A disk is read over NBD: `socket` is a unix socket of a read-only export called `export`, `size` bytes long. A plain
    raw file may be given as `path` instead. `changed` are the ranges that may differ from the backup `base`; what is
    outside of them is taken from that backup and never read. None: unknown, all that is allocated is read.

    An image has a `digest` ("sha256:…", its content id) and is `write`n into an empty folder, as files, only where the
    repository does not have it.
    """

    kind: PartKind
    name: str
    path: Path | None = None
    socket: Path | None = None
    export: str = ""
    size: int | None = None
    base: str | None = None
    changed: Ranges | None = None
    digest: str = ""
    write: Callable[[Path, Progress], None] | None = None


class Archive(Protocol):
    """An instance's data, open for reading until `close`. One thread uses it.

    `still`: the parts are a point in time already, as a snapshot is, or those of what is stopped; then `hold` does
    nothing, and `release` raises Conflict("instance_started") where that was started meanwhile. Else the
    parts are the living data, and `hold` freezes the instance for as long as the second pass takes (seconds).
    `consistency` is a word of `domain.snapshot.Consistency`, right once `hold` has returned.
    """

    parts: Sequence[Part]
    still: bool
    consistency: str

    def hold(self) -> None:
        """Let nothing change (guest file systems or processes frozen, buffers written). What is frozen already, by its
        user, stays so after `release`."""

    def release(self) -> None:
        """Let it go on. Repeating does nothing."""

    def keep(self, backup: str) -> None:
        """The backup is complete and called `backup`: remember its point in time as the base of a later one (begin to
        track changes from there, and forget older bases: a few may be kept, one per repository in use)."""

    def close(self) -> None:
        """Release, and let go of everything; succeeds after a failure too, and twice. Without `keep` the bases of
        earlier backups stay as they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """All that `restore` needs.

    `spec` is what was asked for once, under the new name; `described` what `describe` said at the backup, perhaps of
    another host. `parts` are what was stored, by the part's name: a tree is a folder, a disk a raw sparse file, an
    image the folder it was written to; they lie in `place` of the same plan, and the engine moves or copies what it
    keeps. The instance's image may be absent on this host.
    """

    spec: InstanceSpec
    image: str
    created: datetime
    described: Mapping[str, object]
    nics: tuple[Nic, ...] = ()
    machine_id: str = ""
    pool: PoolPlace | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)


class Archiving(Protocol):
    """What a backup reads and a restore writes."""

    def describe(self, name: str) -> Mapping[str, object]:
        """The configuration as JSON, enough to make it again on another host without its image: sizes, firmware,
        formats, entry point, limits, mounts… For what Triune did not make, `spec` has what InstanceSpec's fields
        (as `asdict` gives them) can say of it. Raises NotFound."""

    def open(self, name: str, base: str | None, progress: Progress) -> Archive:
        """Give access to its data, running or stopped. `base` is an earlier backup (as given to `keep`) that still
        exists complete; None: there is none. Leaves nothing behind when it raises."""

    def abandon(self, name: str, *, running: bool) -> None:
        """After a crash or a failure: let go of whatever `open` and `hold` left (mounts, jobs, processes, snapshots),
        and thaw it if it was `running` when the backup began. The instance may be gone. Safe to repeat."""

    def place(self, plan: RestorePlan) -> Path:
        """An existing folder on the file system where this instance's data will be (for moving instead of copying);
        the parts are put into a new folder below it."""

    def restore(self, plan: RestorePlan, progress: Progress) -> None:
        """Make a stopped instance of a backup: content, owners and times exactly as stored. Nothing that exists is
        changed (a volume whose name is taken gets another). Raises Conflict("instance_exists"), Unsupported. Leaves
        nothing behind when it raises."""

    def discard(self, name: str) -> None:
        """Undo `restore`: remove the instance and all that `restore` made for it. Gone: succeed."""


def started_meanwhile(name: str) -> Conflict:
    """What `Archive.release` raises of an instance that was stopped, and was not left alone."""
    return Conflict(
        "instance_started", f"{name} was started while it was read", hint="The backup was not kept. Repeat it."
    )
