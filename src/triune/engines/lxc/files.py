"""The `files` facet: straight from the container's root, running or stopped, with its own view of owners and mounts."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Invalid
from triune.domain.files import FileKind, FileStat, inside_path, path_not_found, split
from triune.domain.operation import Silent
from triune.engines.lxc import layers, renewal
from triune.engines.lxc import mark as marks
from triune.engines.lxc.client import Client
from triune.host import treetar, untar
from triune.host.acting import as_owner
from triune.host.beneath import Root

_KINDS = {stat.S_IFREG: FileKind.FILE, stat.S_IFDIR: FileKind.FOLDER, stat.S_IFLNK: FileKind.LINK}
_OVERFLOW = 65534
_ALL = 2**32 - 1
_TAKEN = tuple[int, int, int]  # first id inside, first outside, how many


class LxcFiles:
    """Implements engines.base.Files."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def stat(self, name: str, path: str) -> FileStat:
        """What is at `path`."""
        with self._root(name) as (root, _), _explained(name, path):
            info = root.stat(inside_path(path), follow=path.endswith("/"))
            kind = _KINDS.get(stat.S_IFMT(info.st_mode), FileKind.OTHER)
            link = kind is FileKind.LINK
            return FileStat(
                kind=kind,
                size=info.st_size,
                mode=stat.S_IMODE(info.st_mode),
                mtime=int(info.st_mtime),
                target=_target(root, path) if link else None,
                folder=kind is FileKind.FOLDER or (link and _is_folder(root, path)),
            )

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """A tar stream of what is there."""
        folder, entry = split(inside_path(path))
        with self._root(name) as (root, taken), _explained(name, path):
            parent = root.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:
                os.stat(entry, dir_fd=parent, follow_symlinks=False)
                as_name = "" if entry == "." else entry
                yield from treetar.stream(parent, entry, as_name, ids=lambda uid, gid: _inside(taken, uid, gid))
            finally:
                os.close(parent)

    def write(self, name: str, path: str, tar: Iterator[bytes]) -> None:
        """Unpack into the folder there."""
        with self._root(name) as (root, taken), _explained(name, path), as_owner(*_outside(taken, 0, 0)):
            top = root.open(inside_path(path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                policy = untar.Policy(owner=lambda member: _outside(taken, member.uid, member.gid))
                untar.unpack(untar.Pieces(tar), top, policy, Silent())
            finally:
                os.close(top)

    @contextmanager
    def _root(self, name: str) -> Iterator[tuple[Root, tuple[_TAKEN, _TAKEN]]]:
        """The root as the container sees it, and how its users' and groups' ids lie on the host."""
        folder = self._client.require(name)
        pid = self._client.init_pid(name)
        if pid is not None:
            process = Path("/proc") / str(pid)
            taken = _read_map(process / "uid_map"), _read_map(process / "gid_map")
            with Root(process / "root") as root:
                yield root, taken
            return
        mark = marks.read(folder)
        if mark is None:
            raise Conflict(
                "instance_not_running",
                f"{name} is not running, and the files of containers that others made are read only while they run",
                hint=f"Start it: triune start {name}",
            )
        renewal.settle(folder, mark)
        layers.mount_root(folder, mark)
        ids = (0, mark.id_map.base, mark.id_map.count) if mark.id_map else (0, 0, _ALL)
        with Root(folder / "rootfs") as root:
            yield root, (ids, ids)


def _read_map(path: Path) -> _TAKEN:
    """The first line of an id map; what later lines add is seldom used and is told as nobody's."""
    inside, outside, count = (int(word) for word in path.read_text().split("\n", 1)[0].split())
    return inside, outside, count


def _inside(taken: tuple[_TAKEN, _TAKEN], *ids: int) -> tuple[int, int]:
    uid, gid = (
        first + number - base if base <= number < base + count else _OVERFLOW
        for number, (first, base, count) in zip(ids, taken, strict=True)
    )
    return uid, gid


def _outside(taken: tuple[_TAKEN, _TAKEN], *ids: int) -> tuple[int, int]:
    """Ids that the container does not have become its root's."""
    uid, gid = (
        base + (number - first if first <= number < first + count else 0)
        for number, (first, base, count) in zip(ids, taken, strict=True)
    )
    return uid, gid


def _target(root: Root, path: str) -> str:
    fd = root.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


def _is_folder(root: Root, path: str) -> bool:
    try:
        return stat.S_ISDIR(root.stat(path).st_mode)
    except OSError:
        return False


@contextmanager
def _explained(name: str, path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise path_not_found(name, path) from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise Invalid(
                "bad_path", f"{path} can't be reached in {name}: {error.strerror}", hint="Name a path inside it."
            ) from None
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failed(
            "no_space" if full else "files_failed",
            f"{path} in {name}: {error.strerror}",
            hint="Make room there." if full else f"Look inside: triune shell {name}",
        ) from None
