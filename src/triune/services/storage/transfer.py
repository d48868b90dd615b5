"""Volumes from files and folders, and files from volumes.

A tree comes from a folder or a tar archive and goes to one; a disk comes from qcow2, raw or VMDK and goes to any of
these. What is imported was made by somebody else: it is copied first, its format is declared or unmistakable, a disk
that names another file is refused, an archive is unpacked beneath the volume's own folder. Checks are those of images.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, Unsupported
from triune.domain.names import single_line
from triune.domain.operation import Operation
from triune.domain.pool import PoolDriver, Volume, VolumeKind
from triune.domain.units import format_size
from triune.host import btrfs, copytree
from triune.host.beneath import disk_usage, remove_tree
from triune.host.watched import run_watched
from triune.services.images import imports
from triune.services.images.archive import unpack
from triune.services.images.options import ImportOptions
from triune.services.operations import Operations, Task
from triune.services.storage import diskfiles
from triune.services.storage.pools import DEFAULT, Pools
from triune.services.storage.records import FORMATS, PoolRecord, VolumeRecord
from triune.services.storage.space import filling, full
from triune.services.storage.volumes import VolumeOptions, Volumes

_LARGEST = 4 << 40
# By the end of the file's name, as tar's own -a does.
_PACKED = {
    ".gz": "--gzip",
    ".tgz": "--gzip",
    ".zst": "--zstd",
    ".tzst": "--zstd",
    ".xz": "--xz",
    ".txz": "--xz",
    ".tar": "",
}
_CHANGED = 1  # tar(1): some files changed while they were read


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How to import. `format` is qcow2, raw, vmdk or tree; None takes what the content says, if it says it without
    doubt. `size` limits a tree; `max_size` caps what may come out."""

    pool: str = DEFAULT
    format: str | None = None
    size: int | None = None
    max_size: int | None = None


class Transfers:
    """Importing and exporting."""

    def __init__(self, operations: Operations, pools: Pools, volumes: Volumes) -> None:
        self._pools = pools
        self._volumes = volumes
        operations.handlers["volume-part"] = _remove_part
        operations.handlers["volume-still"] = self._drop_still

    # In

    def import_from(self, name: str, path: Path, options: TransferOptions, upload: Path | None = None) -> Operation:
        """Make a volume of a file or folder of this host. `upload` is removed afterwards, whatever happens."""
        single_line(str(path), "the path")
        if options.format not in (None, "tree", *FORMATS):
            raise Invalid(
                "bad_format",
                f"{options.format!r} is not a format of a volume",
                hint=f"Use {', '.join(FORMATS)} or tree.",
            )
        if not path.exists():
            raise NotFound("file_not_found", f"there is no {path}", hint="Check the path.")
        first = VolumeOptions(pool=options.pool, kind=VolumeKind.TREE, size=options.size)
        self._volumes.checked(name, first)
        self._require_outside(path, options.pool)

        def work(task: Task) -> dict[str, Any]:
            try:
                with filling(options.pool):
                    if path.is_dir():
                        return self._copy_folder(task, name, path, first)
                    return self._import_file(task, name, path, options, first)
            finally:
                if upload is not None:
                    upload.unlink(missing_ok=True)

        return self._volumes.submit("volume-import", name, work, pool=options.pool)

    def _require_outside(self, path: Path, pool: str) -> None:
        place = self._pools.record(pool).path
        if path.is_dir() and (path.resolve() == place or path.resolve() in place.parents):
            raise Invalid("bad_path", f"{path} holds the pool itself", hint="Import a folder outside of it.")

    def _copy_folder(self, task: Task, name: str, path: Path, options: VolumeOptions) -> dict[str, Any]:
        record = self._volumes.checked(name, options)
        pool = self._volumes.claim(task, record)
        self._volumes.make_empty(pool, record)
        task.step("copy", f"copying {path}")
        copytree.copy_tree(path, record.place(pool.path), task.check)
        return self._volumes.keep(task, record)

    def _import_file(
        self, task: Task, name: str, path: Path, options: TransferOptions, first: VolumeOptions
    ) -> dict[str, Any]:
        pool = self._pools.record(options.pool)
        self._pools.require_open(pool)
        given = ImportOptions(format=options.format, max_size=options.max_size or _LARGEST)
        work = pool.path / "tmp" / f"import-{secrets.token_hex(8)}"
        task.intend("volume-part", path=str(work))
        work.mkdir(mode=0o700)
        task.step("copy", f"reading {path}")
        copied = imports.copy_in(_Room(pool), path, work, given, task)
        form = imports.decide(copied.path, given)
        if form == "tree":
            record = self._volumes.checked(name, first)
            self._volumes.claim(task, record)
            self._volumes.make_empty(pool, record)
            task.step("unpack", "unpacking the archive")
            unpack(copied.path, record.place(pool.path), given.max_size, task, everything=True)
        elif form in FORMATS:
            record = self._import_disk(task, name, copied, form, given, first)
        else:
            raise Invalid(
                "not_a_volume",
                f"{path.name} is an {form} image, not a disk or a folder",
                hint="See: triune image import",
            )
        remove_tree(work)
        return self._volumes.keep(task, record)

    def _import_disk(
        self, task: Task, name: str, copied: imports.Copied, form: str, given: ImportOptions, first: VolumeOptions
    ) -> VolumeRecord:
        task.step("check", "checking the disk")
        size = imports.checked_size(copied, form, given)
        record = self._volumes.checked(name, replace(first, kind=VolumeKind.DISK, format=form, size=size))
        pool = self._volumes.claim(task, record)
        task.step("convert", "storing the disk")
        target = record.place(pool.path)
        if form == "raw":
            with copied.path.open("r+b") as file:
                file.truncate(record.size)
            copied.path.chmod(0o600)
            copied.path.rename(target)
        else:
            # Written anew, nothing but the data of the stranger's file comes along.
            diskfiles.convert(copied.path, form, target, form, task.report)
        return record

    # Out

    def export(self, name: str, path: Path, form: str | None = None) -> Operation:
        """Write a volume to a new file of this host: a tree as tar, packed as the name's end says; a disk as `form`,
        else as the name's end says, else as it is.
        """
        record = self._volumes.record(name)
        single_line(str(path), "the path")
        if not path.is_absolute() or ".." in path.parts or not path.parent.is_dir():
            raise Invalid("bad_path", f"{path} is in no folder of this host", hint="Write it like /srv/backup/x.tar")
        if path.exists() or path.is_symlink():
            raise Conflict("file_exists", f"{path} exists already", hint="Remove it, or choose another name.")
        if record.kind is VolumeKind.TREE:
            if form is not None or path.suffix not in _PACKED:
                raise Invalid(
                    "bad_format",
                    f"a folder is exported as a tar archive, not to {path.name}",
                    hint="Let its name end with .tar, .tar.gz, .tar.xz or .tar.zst, and leave --format out.",
                )
        elif form is None:
            told = path.suffix.lower().removeprefix(".")
            form = told if told in FORMATS else record.format
        elif form not in FORMATS:
            raise Invalid("bad_format", f"{form!r} is not a disk format", hint=f"Use {', '.join(FORMATS)}.")

        def work(task: Task) -> dict[str, Any]:
            volume = self._volumes.resolve(name)
            part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
            task.intend("volume-part", path=str(part))
            try:
                if volume.kind is VolumeKind.TREE:
                    notes = self._write_tar(task, volume, path, part)
                else:
                    notes = self._write_disk(task, volume, form or volume.format, part)
                _publish(part, path)
            except OSError as error:
                raise _unwritten(path, error) from error
            return {"name": name, "path": str(path), "size": path.stat().st_size, "notes": notes}

        return self._volumes.submit("volume-export", name, work)

    def _write_tar(self, task: Task, volume: Volume, path: Path, part: Path) -> list[str]:
        task.step("export", f"writing {path.name}")
        part.touch(mode=0o600, exist_ok=False)
        with ExitStack() as held:
            tree, still = self._held_still(task, volume, held)
            packed = _PACKED[path.suffix]
            argv = ["tar", "--create", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--sparse"]
            argv += ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--one-file-system"]
            total = None if packed else disk_usage(tree) or None

            def tick(_: float | None) -> None:
                written = part.stat().st_blocks * 512
                task.report(min(1.0, written / total) if total else None, f"wrote {format_size(written)}")

            done = run_watched(
                [*argv, *([packed] if packed else []), "--file", part, "--directory", tree, "."],
                tick,
                accept=(0, _CHANGED),
            )
        notes = [] if still or not done.status else ["files changed while they were read; stop their users, and repeat"]
        sockets = done.stderr.count(b"socket ignored")
        return [*notes, *([f"{sockets} sockets were left out"] if sockets else [])]

    def _held_still(self, task: Task, volume: Volume, held: ExitStack) -> tuple[Path, bool]:
        """The folder to read, and whether nobody can change it: a snapshot, where the pool has any."""
        pool = self._pools.record(volume.pool)
        if pool.driver is not PoolDriver.BTRFS or not btrfs.is_subvolume(volume.path):
            return volume.path, False
        still = pool.path / "tmp" / f"export-{secrets.token_hex(8)}"
        task.intend("volume-still", path=str(still), pool=pool.name)
        btrfs.snapshot(volume.path, still, read_only=True)
        held.callback(btrfs.delete, still)
        return still, True

    def _drop_still(self, data: Mapping[str, Any]) -> None:
        self._pools.require_open(self._pools.record(data["pool"]))
        btrfs.delete(Path(data["path"]))

    def _write_disk(self, task: Task, volume: Volume, form: str, part: Path) -> list[str]:
        self._volumes.require_still(self._volumes.record(volume.name))
        task.step("export", f"writing the disk as {form}")
        diskfiles.convert(volume.path, volume.format, part, form, task.report)
        return []


@dataclass(frozen=True, slots=True)
class _Room:
    """A pool as what is imported to."""

    pool: PoolRecord

    def require_space(self, needed: int, what: str) -> None:
        """Raise Failed("pool_full")."""
        if shutil.disk_usage(self.pool.path).free < needed:
            raise full(self.pool.name)


def _publish(part: Path, path: Path) -> None:
    """Give the whole file its name, unless somebody has it meanwhile."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise Conflict("file_exists", f"{path} exists already", hint="Choose another name.") from None
    except PermissionError:  # a file system without hard links
        part.rename(path)
        return
    part.unlink()


def _unwritten(path: Path, error: OSError) -> Failed | Unsupported:
    return Failed(
        "export_failed", f"{path} can't be written: {error.strerror}", hint="See whether its disk is full: df -h"
    )


def _remove_part(data: Mapping[str, Any]) -> None:
    """What an import or export that did not end had in hand."""
    path = Path(data["path"])
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
