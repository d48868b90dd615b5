"""Images on disk, crash-safe by construction.

    ROOT/<digest>/     manifest.json, oci.json, disk.qcow2, vmlinux, initrd.img, …    complete, or not there at all
    ROOT/<digest>/private/tree        the root tree; `private` keeps the host's users from its setuid programs
    ROOT/<digest>/named/QUOTED        empty: a name that stood for it once; instances may know it by that
    ROOT/names/FAMILY/VERSION         one line: the digest that has the name
    ROOT/oci/QUOTED                   a reference pulled into the engine's OCI store, {"reference", "pulled"}
    ROOT/cache/        downloaded packages; may be deleted at any time
    ROOT/tmp/<id>/     work in progress, locked (flock) by who works in it; unlocked ones are leftovers

An image is made below tmp, synced, and renamed to its digest; then its name is written beside and renamed in place.
ROOT and the images are traversable but not listable (0711): the hypervisor's own user opens disks below.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from triune.domain.errors import Failed, TriuneError
from triune.domain.names import image_name
from triune.domain.units import format_size
from triune.host.beneath import remove_tree
from triune.host.run import run
from triune.services.images.manifest import Manifest, OciRecord, parse

_DIGEST = 64
_CACHE_LIMIT = 2 << 30
_FULL = 16 << 20


class ImageStore:
    """The folder of images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tmp = root / "tmp"
        self.cache = root / "cache"
        self._names = root / "names"
        self._oci = root / "oci"

    def prepare(self) -> None:
        """Make the folders. Idempotent."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        for folder in (self.tmp, self.cache, self._names, self._oci):
            folder.mkdir(exist_ok=True)
        self.tmp.chmod(0o700)

    def folder(self, digest: str) -> Path:
        """Where the image with this digest lies."""
        return self.root / digest

    def names(self) -> dict[str, str]:
        """Every name and its digest."""
        found: dict[str, str] = {}
        for path in sorted(self._names.glob("*/*")):
            with contextlib.suppress(OSError):
                digest = path.read_text().strip()
                if not path.name.startswith(".") and len(digest) == _DIGEST and self.folder(digest).is_dir():
                    found[f"{path.parent.name}/{path.name}"] = digest
        return found

    def resolve(self, name: str) -> str | None:
        """The digest a name stands for."""
        family, _, version = image_name(name).partition("/")
        try:
            digest = (self._names / family / version).read_text().strip()
        except FileNotFoundError:
            return None
        return digest if len(digest) == _DIGEST and self.folder(digest).is_dir() else None

    def manifest(self, digest: str) -> Manifest:
        """Read an image's manifest."""
        path = self.folder(digest) / "manifest.json"
        try:
            return parse(path.read_bytes(), path)
        except FileNotFoundError as error:
            raise Failed("bad_manifest", f"{path} is missing", hint="Remove the image and build it again.") from error

    def manifests(self) -> list[Manifest]:
        """Of every image, named or not."""
        found: list[Manifest] = []
        for path in self.root.glob("*/manifest.json"):
            with contextlib.suppress(Failed, OSError):
                found.append(parse(path.read_bytes(), path))
        return found

    def oci_record(self, digest: str) -> OciRecord | None:
        """The OCI form noted for an image."""
        try:
            return OciRecord(**json.loads((self.folder(digest) / "oci.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def set_oci_record(self, digest: str, record: OciRecord) -> None:
        """Note the OCI form of an image."""
        self._write(self.folder(digest) / "oci.json", json.dumps(asdict(record)).encode())

    def references(self) -> list[str]:
        """References that were pulled or used through us."""
        return sorted(unquote(path.name) for path in self._oci.iterdir() if not path.name.startswith("."))

    def add_reference(self, reference: str) -> None:
        """Note a reference. Idempotent."""
        path = self._oci / quote(reference, safe="")
        if not path.exists():
            self._write(path, json.dumps({"reference": reference, "pulled": datetime.now(UTC).isoformat()}).encode())

    def drop_reference(self, reference: str) -> None:
        """Forget a reference. Idempotent."""
        (self._oci / quote(reference, safe="")).unlink(missing_ok=True)

    @contextlib.contextmanager
    def work(self, kind: str) -> Iterator[Path]:
        """A locked folder below tmp, removed at the end whatever happens."""
        path = self.tmp / f"{kind}-{secrets.token_hex(6)}"
        path.mkdir(mode=0o711)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        except (TriuneError, OSError) as error:
            # The tools that hit a full disk only say that they failed; look while what fills it is still there.
            free = shutil.disk_usage(self.root).free
            if free < _FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
                raise no_space(self.root, f"The {kind}", None, free) from error
            raise
        finally:
            os.close(lock)
            remove_tree(path)

    def publish(self, work: Path, manifest: Manifest) -> None:
        """Make the contents of `work` the image of the manifest's digest; an equal one that exists stays."""
        staged = work.parent / f"{work.name}.publish"
        (work / "manifest.json").write_bytes(manifest.to_json())
        run(["sync", "-f", work], timeout=600)
        target = self.folder(manifest.digest)
        try:
            # The locked folder itself stays behind, to be removed by who locked it.
            work.rename(staged)
            work.mkdir(mode=0o700)
            staged.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            remove_tree(staged)
        _sync_folder(self.root)

    def set_name(self, name: str, digest: str) -> None:
        """Let a name stand for an image, in place of what it stood for."""
        family, _, version = image_name(name).partition("/")
        folder = self._names / family
        folder.mkdir(exist_ok=True)
        named = self.folder(digest) / "named"
        named.mkdir(exist_ok=True)
        (named / quote(name, safe="")).touch()
        self._write(folder / version, f"{digest}\n".encode())
        _sync_folder(self._names)

    def names_had(self, manifest: Manifest) -> set[str]:
        """Every name that stands or stood for an image."""
        named = self.folder(manifest.digest) / "named"
        return {manifest.name, *(unquote(path.name) for path in (named.iterdir() if named.is_dir() else ()))}

    def drop_name(self, name: str) -> None:
        """Take a name away. Idempotent."""
        family, _, version = image_name(name).partition("/")
        (self._names / family / version).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self._names / family).rmdir()
        _sync_folder(self._names)

    def drop(self, digest: str) -> None:
        """Remove an image's files. It vanishes at once; its space follows."""
        with contextlib.suppress(FileNotFoundError):
            self.folder(digest).rename(self.tmp / f"removed-{secrets.token_hex(6)}-{digest[:12]}")
        for path in self.tmp.glob(f"removed-*-{digest[:12]}"):
            remove_tree(path)

    def sweep(self) -> list[str]:
        """Remove what interrupted work left, and the oldest downloads beyond the cache's limit."""
        removed: list[str] = []
        for path in sorted(self.tmp.iterdir()):
            if path.is_dir() and not path.is_symlink():
                if _locked(path):
                    continue
                remove_tree(path)
            else:
                path.unlink()
            removed.append(f"tmp/{path.name}")
        for path in [*self.root.glob("*/.*.new"), *self._names.glob("*/.*.new")]:
            path.unlink()
            removed.append(str(path.relative_to(self.root)))
        debs = sorted(self.cache.rglob("*.deb"), key=lambda deb: deb.stat().st_mtime, reverse=True)
        total = 0
        for deb in debs:
            total += deb.stat().st_size
            if total > _CACHE_LIMIT:
                deb.unlink()
        return removed

    def require_space(self, needed: int, what: str) -> None:
        """Raise Failed("no_space") unless `needed` bytes are free."""
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise no_space(self.root, what, needed, free)

    def _write(self, path: Path, data: bytes) -> None:
        fresh = path.with_name(f".{path.name}.new")
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        _sync_folder(path.parent)


def no_space(root: Path, what: str, needed: int | None, free: int) -> Failed:
    """The error for a full disk."""
    need = f"needs about {format_size(needed)}; " if needed else "ran out of space; "
    return Failed(
        "no_space",
        f"{what} {need}{root} has {format_size(free)} free",
        hint="Free some space, remove unused images (triune image rm NAME), or move the data folder.",
        needed=needed,
        free=free,
    )


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
