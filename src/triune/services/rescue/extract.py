"""Writing files of a volume into a folder: with holes, from where it was stopped, hashed, and read a second time.

Each file is written under a name of its own and renamed when it is whole. Two files are worked on at once, the small
ones first. Files that are mostly holes get their SHA-256 last: by then all data is written and proved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from threading import Lock
from typing import Literal

from triune.disks.content import Content
from triune.domain.errors import Conflict, Failed, TriuneError
from triune.domain.rescue import FileKind, Status
from triune.host.beneath import Root
from triune.services.rescue import targets
from triune.services.rescue.copying import each
from triune.services.rescue.manifest import JOURNAL, MANIFEST, Entry, Journal, entry, identity, write
from triune.services.rescue.meter import Meter
from triune.services.rescue.names import Names
from triune.services.rescue.selecting import Chosen
from triune.services.rescue.writing import FULL, Planned, Writer

_SHA_UP_TO = 1 << 40
_AT_ONCE = 2
# Once a block of this size was freed, glibc keeps twice as much of what is freed (dynamic thresholds, mallopt(3)).
# Otherwise the blocks that are copied go back to the kernel and come anew, page by page: 0.2 s for each GiB.
_FREED = 16 << 20

Hash = Literal["auto", "sha256", "merkle", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it: an entry of the manifest for each file asked for, and bytes written by this call."""

    entries: Sequence[Entry]
    written: int

    @property
    def whole(self) -> bool:
        """Whether everything came out as it was on the volume."""
        return not self.lacking

    @property
    def lacking(self) -> list[Entry]:
        """The entries that did not come out intact or recovered."""
        good = (Status.INTACT, Status.RECOVERED)
        return [one for one in self.entries if one["status"] not in good or one["missing"] or "failed" in one]


def extract(
    chosen: Sequence[Chosen],
    folder: Path,
    *,
    sources: Sequence[str] = (),
    verify: bool = True,
    hashing: Hash = "auto",
    check_space: bool = True,
    meter: Meter | None = None,
) -> Result:
    """Write files, folders and links below a folder, and the manifest.

    `hashing` "auto" is SHA-256 up to 1 TiB and the tree hash beyond; "none" puts no hash into the manifest. What
    another call left there is not written again. Raises Conflict("target_on_source", "folder_in_use", "not_a_folder"),
    Failed("no_space", "target_failed"), Cancelled; a file that fails alone is told in its entry.
    """
    if folder.exists() and not folder.is_dir():
        raise Conflict("not_a_folder", f"{folder} is not a folder", hint="Give a folder, or a new name.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        targets.refuse_sources(folder, sources)
        with Root(folder) as root, closing(Journal(root, folder)) as journal:
            work = _Extraction(root, journal, verify, hashing, meter or Meter())
            return work.run(chosen, folder if check_space else None)
    except OSError as error:
        if error.errno in FULL:  # for the manifest, too
            raise Failed(
                "no_space", f"the disk of {folder} is full", hint="Make room; the same command goes on where it was."
            ) from error
        raise Failed(
            "target_failed", f"{folder} can't be written to: {error.strerror}", hint="Give a folder you may write to."
        ) from error


class _Extraction:
    def __init__(self, root: Root, journal: Journal, verify: bool, hashing: Hash, meter: Meter) -> None:
        self._root, self._journal, self._meter = root, journal, meter
        self._verify, self._hashing = verify, hashing
        given = {who: path for who, path in journal.names.items() if not self._replaced(who)}
        self._names = Names(self._taken, given)
        self._locks: dict[int, Lock] = {}
        self._entries: dict[str, Entry] = {}

    def run(self, chosen: Sequence[Chosen], roomy: Path | None) -> Result:
        """Plan, look for room in a folder if one is given, write, hash."""
        planned = [plan for one in chosen if (plan := self._planned(one)) is not None]
        if roomy is not None:
            targets.require_room(roomy, sum(max(0, plan.data - self._held(plan)) for plan in planned))
        self._meter.total, self._meter.files = sum(plan.effort for plan in planned), len(planned)
        planned.sort(key=lambda plan: plan.effort)
        writer = Writer(self._root, self._journal, self._meter)
        bytes(_FREED)  # and freed
        try:
            self._each(writer.write, planned)
            self._each(writer.hash, [plan for plan in planned if plan.hashed_later])
        finally:
            kept = {who: made for who, (made, _) in self._journal.done.items() if self._there(who)}
            told = {who: made for who, made in self._entries.items() if "failed" in made or "target" in made}
            write(self._root, {**kept, **told}.values())
        return Result(entries=list(self._entries.values()), written=self._meter.written)

    def _planned(self, one: Chosen) -> Planned | None:
        """What is to be done for a file; None where nothing is (any more)."""
        if one.found.kind is FileKind.FOLDER:
            self._root.mkdirs(self._names.folder(one.path))
            return None
        who = identity(one)
        target = self._names.file(one.path, who)
        if self._journal.names.get(who) != target:
            self._journal.name(who, target)
        made = entry(one, path=one.path, written_as=target)
        self._entries[who] = made
        if one.found.kind is FileKind.LINK:
            self._link(made, target, one.found.target)
            return None
        if one.found.kind is FileKind.RDM:
            made.update(target=one.found.target, left_out="it points to a raw device: its content is not on the volume")
            return None
        sha = self._hashing == "sha256" or (self._hashing == "auto" and one.found.size <= _SHA_UP_TO)
        done = self._journal.done.get(who)
        if done and self._there(who) and (done[0]["verified"] or not self._verify) and (done[0]["sha256"] or not sha):
            self._entries[who] = {**done[0], "path": one.path}
            return None
        try:
            content = one.named.volume.open(one.found)
        except TriuneError as error:
            made.update(failed=error.message, status=str(Status.PARTIAL), missing=[[0, one.found.size]])
            return None
        return self._measured(who, one, target, content, sha)

    def _measured(self, who: str, one: Chosen, target: str, content: Content, sha: bool) -> Planned:
        made = self._entries[who]
        made["size"] = content.size
        made["missing"] = [list(span) for span in one.found.missing]
        self._root.mkdirs(target.rpartition("/")[0])
        lock = self._locks.setdefault(id(one.named.volume), Lock())
        plan = Planned(
            who=who,
            made=made,
            target=target,
            content=content,
            lock=lock,
            sha=sha,
            tree=not sha and self._hashing != "none",
            verify=self._verify,
        )
        for run in each(content, lock):
            if run.source is not None and not run.missing:
                plan.data += run.length
        plan.holes = content.size - plan.data
        return plan

    def _link(self, made: Entry, path: str, target: str) -> None:
        """Write a link whose target stays in the folder; others are only told of."""
        made["target"] = target
        depth = path.count("/")
        for part in target.split("/"):
            depth += 0 if part in ("", ".") else -1 if part == ".." else 1
            if depth < 0:
                break
        if depth < 0 or not target or target.startswith("/") or "\0" in target:
            made["left_out"] = "the link points out of the folder"
            return
        self._root.mkdirs(path.rpartition("/")[0])
        self._root.symlink(path, target)

    def _each(self, work: Callable[[Planned], None], plans: Sequence[Planned]) -> None:
        """Do it for all of them. The first error stops the others, and is raised."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            futures = [pool.submit(work, plan) for plan in plans]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._meter.stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _taken(self, path: str, folder: bool) -> bool:
        """Whether something else has a path; the manifest's and the journal's are never given away."""
        if path in (MANIFEST, JOURNAL):
            return True
        if not self._root.exists(path, follow=False):
            return False
        return not (folder and S_ISDIR(self._root.stat(path, follow=False).st_mode))

    def _there(self, who: str) -> bool:
        """Whether what an earlier call finished is still as it left it."""
        path, (made, time) = self._journal.names.get(who, ""), self._journal.done[who]
        try:
            info = self._root.stat(path, follow=False)
        except OSError:
            return False
        return S_ISREG(info.st_mode) and (info.st_size, info.st_mtime_ns) == (made["size"], time)

    def _replaced(self, who: str) -> bool:
        """Whether somebody put another file in its place: that one stays."""
        there = self._root.exists(self._journal.names[who], follow=False)
        return there and who in self._journal.done and not self._there(who)

    def _held(self, plan: Planned) -> int:
        """What an earlier call's part of it takes on disk, in bytes."""
        for path in (plan.target, plan.temporary):
            with suppress(OSError):
                return self._root.stat(path, follow=False).st_blocks * 512
        return 0
