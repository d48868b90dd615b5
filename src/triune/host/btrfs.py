"""btrfs by its own tool: subvolumes, snapshots and quotas (qgroups). Needs btrfs-progs, and root.

Everything here takes paths that are trusted up to the subvolume itself; what a guest made inside is addressed by
subvolume ids alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Failed, Unsupported
from triune.host import quotas, syscalls
from triune.host.run import run

_MAGIC = 0x9123683E  # include/uapi/linux/magic.h
_TOP_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: the inode of every subvolume's top
_QGROUP = re.compile(r"^0/(\d+)\s+(\d+)\s+(\d+)\s+(\d+|none)\s+(\d+|none)\b", re.MULTILINE)
_LISTED = re.compile(r"^ID (\d+) gen \d+ (?:cgen \d+ )?(?:parent \d+ )?top level (\d+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Subvolume:
    """What `btrfs subvolume show` tells. `parent` is the UUID of what it is a snapshot of, "" for none."""

    id: int
    uuid: str
    parent: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a subvolume's quota group: all it refers to, what it alone refers to, and its limit (None: none)."""

    referenced: int
    exclusive: int
    limit: int | None


def is_btrfs(path: Path) -> bool:
    """Whether this path is on btrfs. Gone: False."""
    return syscalls.file_system(path) == _MAGIC


def is_subvolume(path: Path) -> bool:
    """Whether the folder is the top of a subvolume."""
    try:
        info = path.lstat()
    except OSError:
        return False
    return info.st_ino == _TOP_INODE and path.is_dir() and is_btrfs(path)


def create(path: Path) -> None:
    """Make an empty subvolume. Raises Failed."""
    _btrfs("subvolume", "create", "--", path)


def snapshot(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Make `target` (which must not exist) a snapshot of the subvolume `source`; subvolumes inside are left out."""
    if target.exists():  # the tool would put it inside
        raise Failed("exists", f"{target} exists already", hint="Choose another name.")
    _btrfs("subvolume", "snapshot", *(["-r"] if read_only else []), "--", source, target)


def set_read_only(path: Path, wanted: bool) -> None:
    """Let a subvolume be written, or not."""
    _btrfs("property", "set", "-ts", path, "ro", "true" if wanted else "false")


def delete(path: Path) -> None:
    """Delete a subvolume with every subvolume inside. Gone: succeed; its blocks are freed in the background."""
    if not path.exists():
        return
    found = show(path)
    for inner in nested(path, found.id):
        _btrfs("subvolume", "delete", "--subvolid", str(inner), path)
    if found.read_only:
        set_read_only(path, False)
    _btrfs("subvolume", "delete", "--", path)
    quotas.tidy(path.parent)


def nested(path: Path, number: int) -> list[int]:
    """The ids of the subvolumes inside one, the deepest first."""
    text = run(["btrfs", "subvolume", "list", "-p", path]).text
    tops = [(int(match[1]), int(match[2])) for match in _LISTED.finditer(text)]
    found, level = [], [number]
    while level:
        level = [inner for inner, top in tops if top in level]
        found += level
    return found[::-1]


def show(path: Path) -> Subvolume:
    """What is known of a subvolume. Raises Failed where it is none."""
    return parse_show(_btrfs("subvolume", "show", "--", path))


def parse_show(text: str) -> Subvolume:
    """Read the output of `btrfs subvolume show`. Raises Failed("btrfs_unreadable")."""
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and key.strip() not in fields:
            fields[key.strip()] = value.strip()
    try:
        return Subvolume(
            id=int(fields["Subvolume ID"]),
            uuid=fields["UUID"],
            parent=fields["Parent UUID"].strip("-"),
            read_only="readonly" in fields["Flags"],
        )
    except (KeyError, ValueError):
        raise Failed(
            "btrfs_unreadable", "the output of btrfs subvolume show can't be read", hint="Report this as a bug."
        ) from None


def enable_quota(path: Path) -> None:
    """Turn quotas on for the whole file system of `path`."""
    _btrfs("quota", "enable", path)


def has_quota(path: Path) -> bool:
    """Whether quotas are on there."""
    return run(["btrfs", "qgroup", "show", path], check=False).status == 0


def limit(path: Path, size: int | None) -> None:
    """Limit what the subvolume at `path` may refer to, in bytes; None lifts it. Raises Unsupported("no_quota")."""
    if not has_quota(path):
        raise Unsupported(
            "no_quota",
            f"quotas are off on the btrfs file system of {path}",
            hint=f"Turn them on: btrfs quota enable {path}",
        )
    _btrfs("qgroup", "limit", "none" if size is None else str(size), path)


def usage(path: Path) -> Usage | None:
    """The subvolume's quota group, what is not written yet included; None where quotas are off."""
    result = run(["btrfs", "qgroup", "show", "--sync", "-f", "-re", "--raw", path], check=False)
    return parse_usage(result.text) if result.status == 0 else None


def parse_usage(text: str) -> Usage | None:
    """Read the output of `btrfs qgroup show -f -re --raw`; None where it has no group of level 0."""
    match = _QGROUP.search(text)
    if match is None:
        return None
    return Usage(int(match[2]), int(match[3]), None if match[4] == "none" else int(match[4]))


def _btrfs(*words: str | Path) -> str:
    return run(["btrfs", *words], timeout=600).text
