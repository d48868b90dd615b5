"""Files inside a tree that somebody else controls: a guest's root, an unpacked image.

A path there can be a symbolic link to the host's /etc, and can become one between two system calls. `Root` resolves
every path in the kernel, with the tree's own top as "/" (openat2 with RESOLVE_IN_ROOT): links inside the tree
work as they would for the guest, `..` and absolute targets end at the tree's top, and links of /proc are refused.
Each operation works on descriptors of what was opened, never on the path a second time.

`remove_tree` deletes such a tree without following a link, entering a mount, or recursing into its depth.

Errors are OSError; callers that speak to users translate them. `ELOOP`, `ENOTDIR` or `EXDEV` tell of a hostile path.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from triune.host import syscalls

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_RETRIES = 16


class Root:
    """An open tree. Use it as a context manager; its paths are written from the tree's top, `etc/hosts`.

    `owner` (uid, gid) is who owns what is made through it: the mapped root of an unprivileged container; None keeps
    the caller's.
    """

    def __init__(self, path: Path | str, *, owner: tuple[int, int] | None = None) -> None:
        """Open the tree at `path`, which itself must be trusted (may be /proc/PID/root)."""
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._owner = owner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the tree's descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """Open a path as the guest would see it; returns a descriptor the caller closes.

        A name in it that is a device or a pipe is opened as any other: pass O_NONBLOCK, or use `read_bytes`.
        """
        for _ in range(_RETRIES):
            try:
                return syscalls.openat2(self._fd, path.lstrip("/") or ".", flags, mode=mode, resolve=_RESOLVE)
            except BlockingIOError:
                # The kernel saw a rename racing with ".." and could not prove where it is: ask again.
                continue
        raise OSError(errno.EAGAIN, "The tree changes too quickly to resolve a path in it", path)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The opened folder that holds the last component, and that component."""
        folder, _, name = path.strip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise OSError(errno.EINVAL, "Not the path of an entry", path)
        fd = self.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def read_bytes(self, path: str, limit: int = 1 << 20) -> bytes:
        """The first `limit` bytes of a regular file; anything else there raises OSError(EINVAL)."""
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "Not a regular file", path)
            return file.read(limit)

    def stat(self, path: str, *, follow: bool = True) -> os.stat_result:
        """What is there; with `follow` unset, of a symbolic link itself."""
        fd = self.open(path, os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def exists(self, path: str, *, follow: bool = True) -> bool:
        """Whether something is there that can be reached."""
        try:
            self.stat(path, follow=follow)
        except OSError:
            return False
        return True

    def names(self, path: str) -> list[str]:
        """Names in a folder, sorted."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(_entries(fd))
        finally:
            os.close(fd)

    def mkdirs(self, path: str, mode: int = 0o755) -> None:
        """Make a folder and those above it; what exists stays as it is (a link to a folder inside counts)."""
        done = ""
        for part in path.strip("/").split("/"):
            done = f"{done}/{part}"
            if self._is_folder(done):
                continue
            with self._parent(done) as (fd, name):
                try:
                    os.mkdir(name, mode, dir_fd=fd)
                except FileExistsError:
                    if not self._is_folder(done):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), done) from None
                else:
                    self._own(fd, name)

    def _is_folder(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self.stat(path).st_mode)
        except FileNotFoundError:
            return False

    def write_bytes(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Put a regular file there, in one step, in place of whatever file or link had the name.

        The name itself is never followed: a link there is replaced, its target is left alone.
        """
        with self._parent(path) as (fd, name):
            fresh = f".{name[:200]}.{secrets.token_hex(6)}"
            file_fd = os.open(
                fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd
            )
            try:
                with os.fdopen(file_fd, "wb") as file:
                    file.write(data)
                    if self._owner:
                        os.fchown(file_fd, *self._owner)
                    os.fchmod(file_fd, mode)
                os.rename(fresh, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                with suppress(OSError):
                    os.unlink(fresh, dir_fd=fd)
                raise

    def symlink(self, path: str, target: str) -> None:
        """Put a symbolic link there in place of whatever file or link had the name."""
        with self._parent(path) as (fd, name):
            fresh = f".{name[:200]}.{secrets.token_hex(6)}"
            os.symlink(target, fresh, dir_fd=fd)
            try:
                self._own(fd, fresh)
                os.rename(fresh, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                with suppress(OSError):
                    os.unlink(fresh, dir_fd=fd)
                raise

    def rename_new(self, path: str, new: str) -> None:
        """Give a file another name in the tree. Raises FileExistsError where something has it: nothing is replaced."""
        with self._parent(path) as (fd, name), self._parent(new) as (new_fd, new_name):
            syscalls.rename_new(fd, name, new_fd, new_name)

    def unlink(self, path: str) -> None:
        """Remove a file or link (never what a link points to). Gone: succeed."""
        with suppress(FileNotFoundError), self._parent(path) as (fd, name):
            os.unlink(name, dir_fd=fd)

    def _own(self, fd: int, name: str) -> None:
        if self._owner:
            os.chown(name, *self._owner, dir_fd=fd, follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Delete a folder whose contents somebody else made. Gone: succeed.

    Nothing is followed and no mount is entered (a mount inside raises OSError EBUSY or EXDEV). However deep the tree,
    two descriptors and no recursion suffice: a folder that is not empty is first moved up to the top.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    path.rmdir()


def _entries(fd: int) -> list[str]:
    # btrfs lists what was there when the folder was opened or rewound last, and `listdir` rewinds at its end only.
    os.lseek(fd, 0, os.SEEK_SET)
    return os.listdir(fd)


def _empty(top: int) -> None:
    while names := _entries(top):
        for name in names:
            if not _removed(top, name):
                _lift_folders(top, name)


def _removed(fd: int, name: str) -> bool:
    """Remove an entry unless it is a folder with something in it."""
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        # Linux says EISDIR, POSIX and some file systems say EPERM.
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise
    else:
        return True
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _lift_folders(top: int, name: str) -> None:
    """Empty the folder `name`, moving its own non-empty folders up beside it."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for inner in _entries(fd):
            if not _removed(fd, inner):
                os.rename(inner, f".lifted-{secrets.token_hex(8)}", src_dir_fd=fd, dst_dir_fd=top)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)


def disk_usage(path: Path, *, deadline: float | None = None) -> int | None:
    """Bytes on disk below a folder that may change under our feet; None once `deadline` (time.monotonic) passes.

    Links are not followed, hard links count once, folders that cannot be opened count as nothing.
    """
    try:
        top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = ["."]
    try:
        while pending:
            if deadline is not None and time.monotonic() > deadline:
                return None
            total += _folder_usage(top, pending.pop(), pending, seen)
    finally:
        os.close(top)
    return total


def _folder_usage(top: int, folder: str, pending: list[str], seen: set[tuple[int, int]]) -> int:
    """Bytes of the entries of one folder; folders in it are added to `pending`."""
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
    try:
        fd = syscalls.openat2(top, folder, os.O_RDONLY | os.O_DIRECTORY, resolve=resolve)
    except OSError:
        return 0
    total = 0
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(f"{folder}/{entry.name}")
                elif info.st_nlink > 1:
                    if (info.st_dev, info.st_ino) in seen:
                        continue
                    seen.add((info.st_dev, info.st_ino))
                total += info.st_blocks * 512
    except OSError:
        return total
    finally:
        os.close(fd)
    return total
