"""System calls that the standard library lacks, by ctypes: mounts, openat2 and inotify.

Numbers of the newer calls (428 to 442) are the same on every architecture Linux has had since 5.1; see
`include/uapi/asm-generic/unistd.h`. Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x100000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

IN_CREATE = 0x100
IN_DELETE = 0x200
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_ISDIR = 0x40000000
IN_ONLYDIR = 0x01000000
IN_Q_OVERFLOW = 0x4000

_RENAME_NOREPLACE = 1
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def _checked(result: int, path: str | Path | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), None if path is None else os.fspath(path))
    return result


def openat2(dir_fd: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below `dir_fd` with the kernel's own path restrictions (Linux 5.6). Returns a descriptor."""
    creating = flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY)
    how = _OpenHow(flags | os.O_CLOEXEC, mode if creating else 0, resolve)
    result = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(dir_fd),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    return _checked(result, path)


def rename_new(dir_fd: int, name: str, new_dir_fd: int, new_name: str) -> None:
    """Rename unless the new name is taken (FileExistsError); in one step where the file system knows how to."""
    done = _libc.renameat2(
        ctypes.c_int(dir_fd),
        ctypes.c_char_p(os.fsencode(name)),
        ctypes.c_int(new_dir_fd),
        ctypes.c_char_p(os.fsencode(new_name)),
        ctypes.c_uint(_RENAME_NOREPLACE),
    )
    if done != 0 and ctypes.get_errno() == errno.EINVAL:  # NFS and FAT don't know the flag
        with suppress(FileNotFoundError):
            os.stat(new_name, dir_fd=new_dir_fd, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
        os.rename(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd)
        return
    _checked(done, new_name)


def open_tree(path: Path) -> int:
    """A detached copy of the mount at `path` (a bind mount that is nowhere yet). Returns a descriptor."""
    result = _libc.syscall(
        ctypes.c_long(_OPEN_TREE),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC),
    )
    return _checked(result, path)


def mount_setattr(tree_fd: int, attributes: int, userns_fd: int) -> None:
    """Set attributes (and the id map of a user namespace) on a detached mount (Linux 5.12)."""
    attr = _MountAttr(attributes, 0, 0, userns_fd)
    _checked(
        _libc.syscall(
            ctypes.c_long(_MOUNT_SETATTR),
            ctypes.c_int(tree_fd),
            ctypes.c_char_p(b""),
            ctypes.c_uint(AT_EMPTY_PATH),
            ctypes.byref(attr),
            ctypes.c_size_t(ctypes.sizeof(attr)),
        )
    )


def move_mount(tree_fd: int, target: Path) -> None:
    """Attach a detached mount at `target`."""
    result = _libc.syscall(
        ctypes.c_long(_MOVE_MOUNT),
        ctypes.c_int(tree_fd),
        ctypes.c_char_p(b""),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )
    _checked(result, target)


def move_mount_to(tree_fd: int, target_fd: int) -> None:
    """Attach a detached mount at what this descriptor (of our mount namespace) is open on."""
    result = _libc.syscall(
        ctypes.c_long(_MOVE_MOUNT),
        ctypes.c_int(tree_fd),
        ctypes.c_char_p(b""),
        ctypes.c_int(target_fd),
        ctypes.c_char_p(b""),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
    )
    _checked(result)


def unshare(flags: int) -> None:
    """Call unshare(2); of the calling thread alone."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, flags: int) -> None:
    """Call setns(2); of the calling thread alone."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)))


def mount(source: str, target: Path, fstype: str, flags: int, data: str) -> None:
    """Call mount(2)."""
    result = _libc.mount(
        ctypes.c_char_p(os.fsencode(source)),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_char_p(os.fsencode(fstype)),
        ctypes.c_ulong(flags),
        ctypes.c_char_p(os.fsencode(data)),
    )
    _checked(result, target)


def syncfs(fd: int) -> None:
    """Write the whole file system of an open file or folder to disk; errors of earlier writes are told too."""
    _checked(_libc.syncfs(ctypes.c_int(fd)))


def file_system(path: Path) -> int | None:
    """The magic number of the file system that a path is on (statfs(2), include/uapi/linux/magic.h). Gone: None."""
    buffer = (ctypes.c_long * 64)()  # struct statfs: f_type comes first
    done = _libc.statfs(ctypes.c_char_p(os.fsencode(path)), ctypes.byref(buffer))
    return int(buffer[0]) if done == 0 else None


def umount(target: Path, flags: int = UMOUNT_NOFOLLOW) -> None:
    """Call umount2(2)."""
    _checked(_libc.umount2(ctypes.c_char_p(os.fsencode(target)), ctypes.c_int(flags)), target)


def sync_fs(path: Path) -> None:
    """Write everything of the file system that `path` is on to its disk (syncfs)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.syncfs(ctypes.c_int(fd)), path)
    finally:
        os.close(fd)


def inotify_init() -> int:
    """A new non-blocking inotify descriptor."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add_watch(fd: int, path: Path, mask: int) -> int:
    """Watch `path`; returns the watch's number."""
    result = _libc.inotify_add_watch(ctypes.c_int(fd), ctypes.c_char_p(os.fsencode(path)), ctypes.c_uint32(mask))
    return _checked(result, path)
