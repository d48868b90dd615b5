"""One file of an extraction: copied, read a second time, renamed to its name, and told in its entry."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

from triune.disks.content import Content
from triune.domain.errors import Failed
from triune.domain.rescue import Status
from triune.domain.units import format_size
from triune.host.beneath import Root
from triune.services.rescue.copying import MARK, Copy
from triune.services.rescue.hashing import MERKLE, Digest, Merkle, Sha256, Sink, Unhashed
from triune.services.rescue.lane import Lane
from triune.services.rescue.manifest import Entry, Journal, merged
from triune.services.rescue.meter import Meter
from triune.services.rescue.names import OWN
from triune.services.rescue.reading import read_back

_MOSTLY_HOLES = 1 << 30
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True, kw_only=True)
class Planned:
    """One file to be written at `target`. `data` and `holes` are bytes of its content; `lock` guards its volume.

    `sha`, `tree` and `verify` tell whether its SHA-256, its tree hash and a second reading are wanted.
    """

    who: str
    made: Entry
    target: str
    content: Content
    lock: Lock
    sha: bool
    tree: bool
    verify: bool
    data: int = 0
    holes: int = 0

    @property
    def temporary(self) -> str:
        """What it is called until it is whole."""
        folder, slash, _ = self.target.rpartition("/")
        return f"{folder}{slash}{OWN}-{self.who}.part"

    @property
    def hashed_later(self) -> bool:
        """Whether its SHA-256 waits until all data of all files is written: it is mostly the hash of zeros."""
        return self.sha and self.holes > _MOSTLY_HOLES and self.holes > self.data

    @property
    def effort(self) -> int:
        """Bytes to be read, read back and hashed."""
        twice = 2 if self.verify else 1
        holes = 0 if not self.sha else self.holes if self.hashed_later else self.holes * twice
        return self.data * twice + holes + (self.data if self.hashed_later else 0)


class Writer:
    """Writes planned files below a root. Several threads may use it."""

    def __init__(self, root: Root, journal: Journal, meter: Meter) -> None:
        self._root, self._journal, self._meter = root, journal, meter
        # SHA-256 by tree hash and size: equal trees are equal contents (blank disks, copies of one template).
        self._known = {
            (made["hash"], made["size"]): made["sha256"] for made, _ in journal.done.values() if "hash" in made
        }

    def write(self, plan: Planned) -> None:
        """Write one; its entry tells how it went. Raises Failed("no_space") and Cancelled."""
        self._meter.doing(plan.made["path"])
        try:
            self._write(plan)
        except OSError as error:
            if error.errno in FULL:
                raise Failed(
                    "no_space",
                    f"the disk is full: {plan.target} could not be written",
                    hint="Make room; the same command goes on where it was.",
                ) from None
            self._fail(plan, _reason(error, plan))
        finally:
            self._meter.doing("")

    def hash(self, plan: Planned) -> None:
        """Take the SHA-256 that was put off, of what was written and proved. Raises Cancelled."""
        if "failed" in plan.made:
            return
        self._meter.doing(f"SHA-256 of {plan.made['path']}")
        content = (plan.made.get("hash"), plan.made["size"])
        try:
            if not self._known.get(content):
                digest = Sha256(self._meter.tick)
                self._read_again(plan, plan.target, digest)
                self._known[content] = digest.hexdigest()
        except OSError as error:
            self._fail(plan, _reason(error, plan))
        else:
            plan.made["sha256"] = self._known[content]
            self._record(plan)
        finally:
            self._meter.doing("")

    def _write(self, plan: Planned) -> None:
        start = self._begun(plan)
        digest = self._digest(plan)
        fd = self._root.open(plan.temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if start < plan.content.size:
                # Not where there is nothing to cut: ext4 writes what was cut to nothing to the disk when it is closed.
                if os.fstat(fd).st_size > start:
                    os.ftruncate(fd, start)  # what lies behind was written after the last mark
                os.ftruncate(fd, plan.content.size)
            copy = self._copied(plan, fd, digest or Unhashed(), start)
            os.utime(fd, (plan.made["modified"], plan.made["modified"]))
            if plan.verify:
                # Flushed part by part, but read only when all is there: a medium smaller than it says loses what came
                # first.
                _flush(fd, plan.content.size)
        finally:
            os.close(fd)
        again = self._digest(plan)
        if plan.verify and digest and again:
            self._read_again(plan, plan.temporary, again)
            if again.hexdigest() != digest.hexdigest():
                self._fail(plan, "a second reading gave other bytes than were written")
                return
        self._root.rename_new(plan.temporary, plan.target)
        self._tell(plan, copy, digest)

    def _digest(self, plan: Planned) -> Digest | None:
        """What the first and the second reading are compared by."""
        if plan.sha and not plan.hashed_later:
            return Sha256(self._meter.tick)
        return Merkle() if plan.tree or plan.verify or plan.hashed_later else None

    def _copied(self, plan: Planned, fd: int, sink: Sink, start: int) -> Copy:
        flushing = Lane() if plan.verify and plan.data > MARK else None

        def mark(at: int) -> None:
            if flushing:
                flushing.do(_flush, fd, at)
                flushing.do(self._journal.mark, plan.who, at)
            else:
                self._journal.mark(plan.who, at)

        copy = Copy(
            plan.content,
            fd,
            sink,
            lock=plan.lock,
            start=start,
            tick=self._meter.tick,
            mark=mark,
        )
        try:
            copy.run()
        finally:
            if flushing:
                flushing.finish()
        return copy

    def _begun(self, plan: Planned) -> int:
        """How much of it an earlier call has written."""
        if self._root.exists(plan.target, follow=False):
            # It was whole, but the call ended before that was noted, or asked for less than this one does.
            self._root.unlink(plan.temporary)
            self._root.rename_new(plan.target, plan.temporary)
            return plan.content.size
        if not self._root.exists(plan.temporary, follow=False):
            return 0
        return min(self._journal.at.get(plan.who, 0), plan.content.size)

    def _read_again(self, plan: Planned, path: str, digest: Digest) -> None:
        """Hash what a path holds, through a descriptor of its own."""
        fd = self._root.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            read_back(fd, plan.content.size, digest, self._meter.tick)
        finally:
            os.close(fd)

    def _tell(self, plan: Planned, copy: Copy, digest: Digest | None) -> None:
        made = plan.made
        made["missing"] = merged([*copy.missing, *map(tuple, made["missing"])])
        if made["missing"] and made["status"] in (Status.INTACT, Status.RECOVERED):
            made["status"] = str(Status.PARTIAL)
        if copy.unread:
            made["reasons"].append(f"{format_size(copy.unread)} could not be read from the source")
        made["verified"] = plan.verify
        if isinstance(digest, Sha256):
            made["sha256"] = digest.hexdigest()
        elif isinstance(digest, Merkle) and (plan.tree or plan.sha):
            made["hash"] = f"{MERKLE}:{digest.hexdigest()}"
        if not plan.hashed_later:
            self._record(plan)
        self._meter.finished(copy.written)

    def _record(self, plan: Planned) -> None:
        self._journal.finish(plan.who, plan.made, self._root.stat(plan.target, follow=False).st_mtime_ns)

    def _fail(self, plan: Planned, why: str) -> None:
        """Tell it in the entry, and leave nothing that could be taken for the file."""
        plan.made.update(failed=why, status=str(Status.PARTIAL), missing=[[0, plan.made["size"]]], sha256=None)
        self._journal.name(plan.who, plan.target)  # begin anew next time
        for path in (plan.temporary, plan.target):
            with suppress(OSError):
                self._root.unlink(path)


def _flush(fd: int, end: int) -> None:
    """Put a file's bytes on the medium, and those before `end` out of the page cache."""
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, end, os.POSIX_FADV_DONTNEED)


def _reason(error: OSError, plan: Planned) -> str:
    if error.errno == errno.EFBIG:
        size = format_size(plan.content.size)
        return f"this file system or a limit (ulimit -f) allows no file of {size}; XFS and btrfs hold 8 EiB"
    return f"{plan.target} could not be written: {error.strerror}"
