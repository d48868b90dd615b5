"""Mounts inside another process's mount namespace: a folder of the host, put into a running container.

A mount can only be moved within the caller's own namespace, and a process with threads can't change its own. So a
thread of its own does it: it gives up the file system attributes that threads share, enters, works and ends. All paths
there are the container's, who may change them at any time; they are resolved inside its root, in the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from triune.host import syscalls
from triune.host.beneath import Root


def mount_at(pid: int, source: Path, target: str, *, owner: tuple[int, int], read_only: bool) -> None:
    """Bind the host's `source` (with the id map that its mount has) at `target` in the namespace of process `pid`.

    The folder `target` is made where it is missing, owned by `owner`. Raises OSError.
    """
    tree = syscalls.open_tree(source)
    folder = stat.S_ISDIR(os.fstat(tree).st_mode)

    def work() -> None:
        with Root("/", owner=owner) as root:
            if folder:
                root.mkdirs(target)
            elif not root.exists(target):
                root.mkdirs(target.rpartition("/")[0] or "/")
                root.write_bytes(target, b"")
            with _opened(root, target) as (_, place):
                syscalls.move_mount_to(tree, place)

    try:
        if read_only:
            syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, 0)
        _inside(pid, work)
    finally:
        os.close(tree)


def unmount_at(pid: int, source: Path, target: str) -> bool:
    """Take the mount of `source` away from `target` in the namespace of `pid`; False where something else is there.

    Raises OSError: EBUSY while something in it is open, ENOENT where `source` is gone.
    """
    wanted = source.stat()

    def work() -> bool:
        with Root("/") as root:
            try:
                with _opened(root, target) as (parent, place):
                    found = os.fstat(place)
                    # This thread has a current folder of its own.
                    os.fchdir(parent)
            except OSError:
                return False
        if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
            return False
        # By its name in the opened folder, and no link is followed: whatever else could have come there meanwhile is a
        # mount of the container's own.
        syscalls.umount(Path(PurePosixPath(target).name))
        return True

    return bool(_inside(pid, work))


@contextmanager
def _opened(root: Root, target: str) -> Iterator[tuple[int, int]]:
    """The folder that holds the last name of a path, and what has that name, which must be no link."""
    path = PurePosixPath(target)
    parent = root.open(str(path.parent), os.O_PATH | os.O_DIRECTORY)
    try:
        place = os.open(path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_ISLNK(os.fstat(place).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
            yield parent, place
        finally:
            os.close(place)
    finally:
        os.close(parent)


def _inside(pid: int, work: Callable[[], Any]) -> Any:
    """Do `work` in a thread that has entered the mount namespace of a process."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(namespace, syscalls.CLONE_NEWNS)
            result.append(work())
        except BaseException as error:
            failure.append(error)

    try:
        thread = threading.Thread(target=run, name="elsewhere")
        thread.start()
        thread.join()
    finally:
        os.close(namespace)
    if failure:
        raise failure[0]
    return result[0]
