"""The digest of a root tree: what it holds, not when it was made."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from triune.domain.operation import Progress


@dataclass(frozen=True, slots=True)
class TreeSum:
    """`digest` in hex; `size` in bytes on disk (hard links once)."""

    digest: str
    size: int


def tree_sum(tree: Path, progress: Progress, salt: bytes = b"") -> TreeSum:
    """SHA-256 over every entry in order of its path: kind, mode, owner, extended attributes, and content or target.

    Times are left out. `salt` is mixed in first (what else makes the image what it is).
    """
    total = hashlib.sha256(salt)
    size = 0
    seen: set[int] = set()
    for folder, folders, names in os.walk(tree):
        folders.sort()
        progress.check()
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            info = path.lstat()
            if info.st_ino not in seen:
                size += info.st_blocks * 512
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                seen.add(info.st_ino)
            head = (os.fsencode(path.relative_to(tree)), info.st_mode, info.st_uid, info.st_gid, info.st_rdev)
            total.update(repr((head, _attributes(path), _content(path, info.st_mode))).encode())
    return TreeSum(total.hexdigest(), size)


def _attributes(path: Path) -> list[tuple[str, bytes]]:
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(_names(path))]


def _names(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []


def _content(path: Path, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.fsencode(path.readlink())
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    return b""
