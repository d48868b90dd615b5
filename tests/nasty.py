"""A tree with everything in it that a copy can lose, and a fingerprint that sees the loss."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from pathlib import Path

_OLD = 1_000_000_000_123_456_789  # nanoseconds; a copy that keeps seconds only is found out


def make(top: Path, *, devices: bool = True) -> None:
    """Fill the existing folder `top`. Root only; `devices` also makes device nodes."""
    (top / "plain").write_bytes(b"plain\n")
    (top / "empty").touch()
    (top / "folder" / "deep").mkdir(parents=True)
    (top / "folder" / "deep" / "Ümläut \n new line").write_bytes(b"odd name\n")
    os.close(os.open(os.fsencode(top) + b"/not-utf8-\xff\xfe", os.O_CREAT | os.O_WRONLY, 0o600))
    (top / "hard-a").write_bytes(b"linked\n" * 1000)
    (top / "hard-b").hardlink_to(top / "hard-a")
    (top / "folder" / "hard-c").hardlink_to(top / "hard-a")
    (top / "link").symlink_to("folder/deep")
    (top / "dangling").symlink_to("/nowhere/at/all")
    (top / "absolute").symlink_to("/etc/passwd")
    with (top / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    os.mkfifo(top / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(top)
        try:
            listener.bind("socket")
        finally:
            os.chdir(before)
    if devices:
        os.mknod(top / "char", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top / "block", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755), ("secret", 0o000)):
        (top / name).write_bytes(name.encode())
        os.chown(top / name, 1000, 1001)
        (top / name).chmod(mode)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    os.chown(top / "link", 1234, 4321, follow_symlinks=False)
    os.chown(top / "folder", 65534, 100)
    (top / "capable").write_bytes(b"\x7fELF")
    (top / "capable").chmod(0o755)
    os.setxattr(top / "capable", "security.capability", _capability())
    os.setxattr(top / "plain", "user.note", b"kept\0binary")
    os.setxattr(top / "folder", "trusted.note", b"of a folder")
    os.setxattr(top / "plain", "system.posix_acl_access", _acl(1005))
    os.setxattr(top / "folder", "system.posix_acl_default", _acl(1006))
    _age(top)


def _capability() -> bytes:
    """cap_net_bind_service=ep, as the kernel stores it (struct vfs_cap_data, revision 2)."""
    return struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def _acl(user: int) -> bytes:
    """user::rwx user:USER:r-x group::r-x mask::r-x other::r-- (struct posix_acl_xattr_header and entries)."""
    none = 0xFFFFFFFF
    entries = ((1, 7, none), (2, 5, user), (4, 5, none), (0x10, 5, none), (0x20, 4, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _age(top: Path) -> None:
    for folder, folders, files in os.walk(top, topdown=False):
        for index, name in enumerate([*folders, *files]):
            when = _OLD + index * 1_000_000_007
            os.utime(Path(folder, name), ns=(when, when), follow_symlinks=False)
    os.utime(top, ns=(_OLD, _OLD))


def fingerprint(top: Path, *, shift: int = 0) -> dict[str, tuple[object, ...]]:
    """What each path is: kind, mode, owner (less `shift`), size, time, content, links among themselves, attributes."""
    inodes: dict[tuple[int, int], str] = {}
    found = {}
    for folder, folders, files in os.walk(os.fsencode(top)):
        folders.sort()
        for name in [b"."] * (folder == os.fsencode(top)) + sorted([*folders, *files]):
            path = os.path.join(folder, name)  # noqa: PTH118 - bytes
            info = os.lstat(path)
            key = repr(os.path.relpath(path, os.fsencode(top)))
            first = key if stat.S_ISDIR(info.st_mode) else inodes.setdefault((info.st_dev, info.st_ino), key)
            found[key] = (
                *(stat.filemode(info.st_mode), info.st_uid - shift, info.st_gid - shift, info.st_mtime_ns),
                info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else 0,
                *(first, _content(path, info), _attributes(path)),
            )
    return found


def _content(path: bytes, info: os.stat_result) -> object:
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(path)  # noqa: PTH115 - bytes
    if not stat.S_ISREG(info.st_mode):
        return None
    with open(path, "rb") as file:  # noqa: PTH123 - bytes
        total = hashlib.file_digest(file, "sha256").hexdigest()
    return total, info.st_size, info.st_blocks * 512 < info.st_size - (1 << 20)


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False)) for name in names if not name.startswith("btrfs.")
    )
