"""A repository, by restic. `docs/BACKUP.md` says why restic, and what else is in the repository.

Its password comes from a file; nothing secret is in an argument list. Each call is a process of its own that ends with
the daemon; one that was killed leaves at most a lock and unused data, never a broken backup.
"""

from __future__ import annotations

import json
import os
import posixpath
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import triune
from triune.domain.errors import Conflict, Failed, Invalid, TriuneError
from triune.host.run import Result, environment, run, tool_missing
from triune.host.watched import run_told
from triune.services.backups import stored
from triune.services.backups.request import Place
from triune.services.backups.stored import Stored

PROGRAM = "restic"
# The kernel kills the program when the thread that started it ends, so with the daemon.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
_OWN = frozenset({"config", "data", "index", "keys", "locks", "snapshots", "lost+found"})
_INCOMPLETE = 3
_FRAMES = "4"
_SAID = 1 << 16
_FIRST_DEVICE, _DEVICES = 2048, 1024
_QUICK = 900.0
_FAR = 90.0  # the program itself tries for a quarter of an hour

Tick = Callable[[float | None], None]
"""Told the fraction that is done, some times a second; raises to end it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a backup reads: see `host.staging.stage`. `disks` have the JSON shape that is described there.

    `name`, the instance's, is what device numbers that must not change are made of; "": any will do.
    """

    name: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    trees: Mapping[str, Path] = field(default_factory=dict)
    disks: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One pass of a backup: the (short) id, what it read and what it added to the repository, in bytes before
    compression. `unreadable` are `PATH: REASON` of what is not in it."""

    id: str
    total: int
    added: int
    files: int
    unreadable: tuple[str, ...] = ()


class Repository:
    """One repository and its key. `cache` is a folder for what remote ones say twice, `stage` an empty folder."""

    def __init__(self, place: Place, *, cache: Path, stage: Path, variables: Mapping[str, str] | None = None) -> None:
        self.place = place
        self._stage = stage
        self._variables = {
            **(variables or {}),
            "RESTIC_PASSWORD_FILE": str(place.password_file),
            "RESTIC_PROGRESS_FPS": _FRAMES,
            "RESTIC_CACHE_DIR": str(cache),
        }
        near = ["--no-cache"] if place.folder is not None else []
        self._argv = [PROGRAM, "--repo", place.address, *near]

    # Making and opening

    def require(self) -> None:
        """Raise NotFound("repository_not_found") or Invalid("not_a_repository") where a folder is none."""
        folder = self.place.folder
        if folder is None:
            return
        if not (folder / "config").is_file() or not (folder / "keys").is_dir():
            self._require_ours(folder)
            raise stored.not_found(self.place.address)

    def ensure(self) -> bool:
        """Make it where there is none; returns whether it was made. Raises Invalid("not_a_repository")."""
        folder = self.place.folder
        if folder is None:
            return self._ensure_remote()
        if (folder / "config").is_file() and (folder / "keys").is_dir():
            return False
        self._require_ours(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A key without a configuration is what a crash left; it would stand in the way of the real one.
            if (folder / "keys").is_dir():
                for key in (folder / "keys").iterdir():
                    key.unlink()
        except OSError as error:
            raise Failed(
                "repository_unwritable", f"{folder} can't be made a repository: {error.strerror}", hint="Name another."
            ) from None
        self._call("init", "--repository-version", "2")
        return True

    def _require_ours(self, folder: Path) -> None:
        try:
            names = {entry.name for entry in folder.iterdir()}
        except FileNotFoundError:
            return
        except OSError as error:
            raise Invalid(
                "not_a_repository", f"{folder} can't be read: {error.strerror}", hint="Name a folder."
            ) from None
        if (folder / "config").is_file() and not (folder / "keys").is_dir():
            raise Invalid(
                "not_a_repository",
                f"{folder} holds another program's repository (perhaps borg's)",
                hint="Name an empty folder, or one that does not exist yet.",
            )
        if names - _OWN or "config" in names:
            raise Invalid(
                "not_a_repository",
                f"{folder} is not empty, and no backup repository",
                hint="Name an empty folder, or one that does not exist yet.",
            )

    def _ensure_remote(self) -> bool:
        result = self._result("cat", "config")
        if result.status == 0:
            return False
        error = stored.explain(_text(result), self.place.address)
        if error.code != "repository_not_found":
            raise error
        self._call("init", "--repository-version", "2")
        return True

    # Backups

    def snapshots(self) -> list[Stored]:
        """Everything of ours in it, the oldest first: backups, images, and what unfinished ones left."""
        self.require()
        found = stored.parse_snapshots(self._call("snapshots", "--no-lock", "--json").stdout)
        return [one for one in found if {stored.TAG, stored.IMAGE_TAG, stored.PASSING} & set(one.tags)]

    def backup(self, view: View, tags: Sequence[str], parent: str | None, tick: Tick) -> Written:
        """Store a view. `parent` is an earlier one: what has its size and times is not read again.

        What could not be read is told, not raised. Raises as `explain`.
        """
        argv = [*self._argv, "backup", "--json", *(["--parent", parent] if parent else ["--force"])]
        argv += [word for tag in tags for word in ("--tag", tag)]
        given = {
            "folder": str(self._stage),
            "argv": [*argv, "."],
            "files": dict(view.files),
            "trees": {name: [str(path), _device(view.name, name)] for name, path in view.trees.items()},
            "disks": {name: dict(disk) for name, disk in view.disks.items()},
        }
        self._stage.mkdir(parents=True, exist_ok=True, mode=0o700)
        last: dict[str, Any] = {}
        told = _Told(tick)

        def line(raw: bytes) -> None:
            found = stored.parse_line(raw)
            if found.get("message_type") == "summary":
                last.update(found)
            told.fraction = stored.number(found, "percent_done") or told.fraction

        program = [sys.executable, "-m", "triune.host.staging.stage"]
        home = {"PYTHONPATH": str(Path(triune.__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        result = run_told(
            program, line=line, tick=told.tick, env={**self._variables, **home}, stdin=json.dumps(given).encode()
        )
        errors = result.stderr.decode(errors="replace")
        if result.status not in (0, _INCOMPLETE) or not last:
            raise stored.explain(errors, self.place.address)
        unread = stored.unreadable(errors, f"{self._stage}/")
        if result.status and not unread:
            unread = ["?: no reason given"]
        return Written(
            id=str(last.get("snapshot_id"))[: stored.SHORT],
            total=int(stored.number(last, "total_bytes_processed")),
            added=int(stored.number(last, "data_added")),
            files=int(stored.number(last, "total_files_processed")),
            unreadable=tuple(unread),
        )

    def forget(self, ids: Sequence[str]) -> None:
        """Remove backups; their data stay until `prune`."""
        if ids:
            self._exclusive("forget", *ids)

    def expired(self, tag: str, keep: Sequence[str]) -> list[str]:
        """The ids with this tag that a rule of keeping lets go; nothing is removed."""
        argv = ["forget", "--dry-run", "--no-lock", "--json", "--group-by", "", "--tag", f"{stored.TAG},{tag}", *keep]
        groups = json.loads(self._call(*argv).stdout or b"null") or []
        return [str(one["id"]) for group in groups for one in group.get("remove") or ()]

    def prune(self, tick: Tick) -> None:
        """Free what no backup needs."""
        self._exclusive("prune", tick=tick)

    # Reading

    def read(self, backup: str, path: str, limit: int = 1 << 28) -> bytes:
        """A small file of a backup, whole. Raises Failed("file_too_large")."""
        with self.dump(backup, path) as file:
            data = file.read(limit + 1)
            if len(data) > limit:
                raise Failed("file_too_large", f"{path} of backup {backup[:8]} is too large", hint="Restore it.")
            return data

    @contextmanager
    def dump(self, backup: str, path: str) -> Iterator[IO[bytes]]:
        """A file's content, or a folder as a tar stream. What ends too early raises at the end of the block."""
        argv = [*_WITH_US, *self._argv, "dump", "--no-lock", backup, path]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment(self._variables),
                )
            except FileNotFoundError:
                raise tool_missing(PROGRAM) from None
            try:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                with process.stdout as output:
                    yield output
                    whole = not output.read(1)
                if process.wait() != 0 and whole:
                    errors.seek(0)
                    raise stored.explain(errors.read(_SAID).decode(errors="replace"), self.place.address)
            finally:
                process.kill()
                process.wait()

    def kind(self, backup: str, path: str) -> str:
        """What is at a path of a backup: `file`, `dir`, `symlink`…, or "" for nothing."""
        result = self._result("ls", "--no-lock", "--json", backup, posixpath.dirname(path))
        found = (stored.parse_line(line) for line in result.stdout.splitlines())
        return next((str(node.get("type")) for node in found if node.get("path") == path), "")

    def restore(self, backup: str, path: str, target: Path, tick: Callable[[], None]) -> list[str]:
        """Put the folder or file `path` of a backup below `target`; returns the paths that it could not give."""
        sparse = ["--sparse"] if self._version() >= (0, 15) else []
        argv = [*self._argv, "restore", "--no-lock", *sparse, "--include", _pattern(path), "--target", str(target)]
        result = run_told([*_WITH_US, *argv, backup], line=lambda _: None, tick=tick, env=self._variables)
        if result.status == 0:
            return []
        errors = result.stderr.decode(errors="replace")
        found = stored.lost(errors)
        if not found:
            raise stored.explain(errors, self.place.address)
        return found

    def _version(self) -> tuple[int, int]:
        words = run([PROGRAM, "version"], timeout=20).text.split()
        major, _, rest = (words[1] if len(words) > 1 else "").partition(".")
        minor = rest.partition(".")[0]
        return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)

    # Checking

    def check(self, tick: Tick) -> str:
        """Read and check every byte; returns what it found wrong, "" where all is well."""
        told = _Told(tick)
        output: list[str] = []

        def line(raw: bytes) -> None:
            told.fraction = _percent(raw) or told.fraction
            output.append(raw.decode(errors="replace"))

        argv = [*_WITH_US, *self._argv, "check", "--read-data"]
        result = run_told(argv, line=line, tick=told.tick, env=self._variables)
        if result.status == 0:
            return ""
        errors = result.stderr.decode(errors="replace")
        error = stored.explain(errors, self.place.address)
        if error.code == "repository_locked" and self._unlock():
            return self.check(tick)
        if error.code != "repository_failed":
            raise error
        return "\n".join([*output, errors])

    def users(self, pack: str) -> list[dict[str, Any]]:
        """What lies in a pack: `{object_type, id, path, snapshot}` each. Raises Failed where that can't be told."""
        found = json.loads(self._call("find", "--no-lock", "--json", "--pack", pack).stdout or b"[]")
        return [one for one in found if isinstance(one, dict)]

    def has_blob(self, blob: str) -> bool:
        """Whether one chunk can be read and is what it should be."""
        return self._result("cat", "--no-lock", "blob", blob).status == 0

    def is_walkable(self, backup: str) -> bool:
        """Whether all folders of a backup can be listed."""
        return self._result("ls", "--no-lock", "--recursive", backup, "/").status == 0

    # Running it

    def _exclusive(self, *words: str, tick: Tick | None = None) -> None:
        """Run what must be alone in the repository; a lock that a dead process left is removed first."""
        try:
            self._call(*words, tick=tick)
        except Conflict:
            if not self._unlock():
                raise
            self._call(*words, tick=tick)

    def _unlock(self) -> bool:
        return self._result("unlock").status == 0

    def _call(self, *words: str, tick: Tick | None = None) -> Result:
        result = self._result(*words, tick=tick)
        if result.status != 0:
            raise stored.explain(_text(result), self.place.address)
        return result

    def _result(self, *words: str, tick: Tick | None = None) -> Result:
        argv = [*_WITH_US, *self._argv, *words]
        if tick is None:
            try:
                return run(argv, check=False, timeout=_QUICK if self.place.folder else _FAR, env=self._variables)
            except TriuneError as error:
                raise self._no_answer(error) from None
        told = _Told(tick)

        def line(raw: bytes) -> None:
            told.fraction = _percent(raw) or told.fraction

        return run_told(argv, line=line, tick=told.tick, env=self._variables)

    def _no_answer(self, error: TriuneError) -> TriuneError:
        if error.code == "tool_missing":
            return tool_missing(PROGRAM)
        if error.code == "command_timeout" and self.place.folder is None:
            return stored.explain("timed out", self.place.address)
        return error


class _Told:
    """Passes on the last fraction that was heard."""

    def __init__(self, tick: Tick) -> None:
        self.fraction: float | None = None
        self._tick = tick

    def tick(self) -> None:
        self._tick(self.fraction)


def _device(instance: str, tree: str) -> int:
    """A number that hardly any other mount has, the same each time."""
    return _FIRST_DEVICE + zlib.crc32(f"{instance}/{tree}".encode()) % _DEVICES if instance else 0


def _percent(line: bytes) -> float | None:
    """The fraction in `[0:01] 42.00%  3 / 7 packs`."""
    words = line.split()
    for word in words[:3]:
        if word.endswith(b"%"):
            try:
                return min(1.0, max(0.0, float(word[:-1]) / 100))
            except ValueError:
                return None
    return None


def _text(result: Result) -> str:
    return result.stderr.decode(errors="replace") or result.text


def _pattern(path: str) -> str:
    """A path as a pattern that means exactly it (filepath.Match)."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in path)


def is_missing() -> str:
    """Why there can be no repository on this host, or ""."""
    found = any(os.access(Path(folder) / PROGRAM, os.X_OK) for folder in environment()["PATH"].split(":"))
    return "" if found else f"{PROGRAM} is not installed on this host"
