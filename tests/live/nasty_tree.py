"""A tree with everything a copy can lose, and a digest of a tree that leaves nothing out.

Runs anywhere Python does, on the host and inside an instance (`SCRIPT` is this file's own text, for `python3 -`):

    python3 nasty_tree.py make FOLDER       builds the tree below FOLDER/nasty, prints what could not be made here
    python3 nasty_tree.py digest FOLDER     prints one JSON object: path → facts, for everything below FOLDER
    python3 nasty_tree.py spoil FOLDER      changes, adds and removes things, so that a restore has something to do

It needs nothing but the standard library. What a place does not allow (device files in a user namespace, ACLs on a
file system without them) is left out and named, so that a test can tell what it has proved.
"""

# Names that are not UTF-8 are bytes, which pathlib does not take.
# ruff: noqa: PTH115, PTH118, PTH123

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).read_text() if "__file__" in globals() and Path(__file__).is_file() else ""
TREE = "nasty"
# 2001-02-03 04:05:06.789012345, before 1970, and after 2038.
TIMES = (981173106_789012345, -86400_000000001, 4102444800_000000000)
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # v2, effective, CAP_NET_BIND_SERVICE
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who)
    for tag, bits, who in (
        (1, 7, 0xFFFFFFFF),
        (2, 5, 1234),
        (4, 5, 0xFFFFFFFF),
        (16, 5, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    )
)


def make(folder: Path) -> list[str]:
    """Build it; returns what could not be made here, as `what: why`."""
    top = folder / TREE
    top.mkdir(parents=True)
    skipped: list[str] = []

    def attempt(what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            skipped.append(f"{what}: {errno.errorcode.get(error.errno or 0, str(error))}")

    _files(top)
    _links(top)
    _sparse(top)
    attempt("owners", lambda: _owners(top))
    attempt("user xattrs", lambda: os.setxattr(top / "plain", "user.triune", b"\0\xff value\n"))
    attempt("user xattrs of folders", lambda: os.setxattr(top / "folder", "user.empty", b""))
    attempt("trusted xattrs", lambda: os.setxattr(top / "plain", "trusted.triune", b"t"))
    attempt("capabilities", lambda: os.setxattr(top / "program", "security.capability", _CAPABILITY))
    attempt("acls", lambda: os.setxattr(top / "plain", "system.posix_acl_access", _ACL))
    attempt("default acls", lambda: os.setxattr(top / "folder", "system.posix_acl_default", _ACL))
    attempt("fifo", lambda: os.mkfifo(top / "fifo", 0o640))
    attempt("socket", lambda: _socket(top / "socket"))
    attempt("character device", lambda: os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)))
    attempt("block device", lambda: os.mknod(top / "loop", stat.S_IFBLK | 0o640, os.makedev(7, 200)))
    attempt("overlay whiteout", lambda: os.mknod(top / "whiteout", stat.S_IFCHR, os.makedev(0, 0)))
    _modes(top)
    _times(top, attempt)
    return skipped


def _files(top: Path) -> None:
    (top / "plain").write_bytes(b"plain\n")
    (top / "empty").touch()
    (top / "program").write_bytes(b"#!/bin/sh\nexit 0\n")
    (top / "binary").write_bytes(bytes(range(256)) * 1000)
    for name in ("setuid", "setgid", "unreadable"):
        (top / name).write_bytes(name.encode())
    (top / "folder").mkdir()
    (top / "folder" / "inner").write_bytes(b"inner")
    (top / "empty folder").mkdir()
    (top / "sticky").mkdir()
    # Names: blanks, quotes, a line break, a leading dash, not UTF-8, as long as they may be, a backslash.
    for name in (
        b" lead and trail ",
        b"quote'\"`$(x)",
        b"line\nbreak",
        b"-rf",
        b"\xff\xfe not utf-8",
        b"x" * 255,
        b"back\\slash",
    ):
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(name)
    deep = top / "deep"
    for level in range(40):
        deep = deep / f"level-{level}"
    deep.mkdir(parents=True)
    (deep / "bottom").write_bytes(b"bottom")


def _links(top: Path) -> None:
    (top / "hard-1").write_bytes(b"one inode, three names")
    os.link(top / "hard-1", top / "hard-2")
    os.link(top / "hard-1", top / "folder" / "hard-3")
    for name, target in (
        ("relative", "plain"),
        ("dangling", "nowhere/at all"),
        ("absolute", "/etc/passwd"),
        ("up", "../../.."),
    ):
        (top / name).symlink_to(target)
    (top / "to-folder").symlink_to("folder")
    os.link(top / "relative", top / "relative-hard", follow_symlinks=False)


def _sparse(top: Path) -> None:
    with (top / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(64 << 20)
    with (top / "hole-only").open("wb") as file:
        file.truncate(16 << 20)


def _owners(top: Path) -> None:
    for name, uid, gid in (("plain", 1234, 4321), ("folder", 33, 33), ("hard-1", 65534, 65534), ("relative", 1, 2)):
        os.chown(top / name, uid, gid, follow_symlinks=False)


def _socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(str(path))
    finally:
        server.close()


def _modes(top: Path) -> None:
    for name, mode in (
        ("setuid", 0o4755), ("setgid", 0o2755), ("sticky", 0o1777),
        ("unreadable", 0o000), ("empty folder", 0o2750), ("program", 0o755),
    ):  # fmt: skip
        (top / name).chmod(mode)


def _times(top: Path, attempt: Callable[[str, Callable[[], object]], None]) -> None:
    for name, when in (("plain", TIMES[0]), ("binary", TIMES[1]), ("empty", TIMES[2])):
        attempt(f"time of {name}", lambda name=name, when=when: os.utime(top / name, ns=(when, when)))  # type: ignore[misc]
    attempt("time of a link", lambda: os.utime(top / "dangling", ns=(TIMES[0], TIMES[0]), follow_symlinks=False))
    # Folders last: whatever is made in them changes theirs.
    for name in ("folder", "empty folder", "."):
        attempt(f"time of {name}", lambda name=name: os.utime(top / name, ns=(TIMES[0], TIMES[0])))  # type: ignore[misc]


def spoil(folder: Path) -> None:
    """Change what `make` made in every way a restore must undo."""
    top = folder / TREE
    with (top / "plain").open("r+b") as file:
        file.write(b"PLAIN")
    (top / "binary").unlink()
    (top / "new").write_bytes(b"was not there")
    (top / "new folder").mkdir()
    with (top / "sparse").open("r+b") as file:
        file.seek(32 << 20)
        file.write(b"no hole here any more")
    (top / "hard-2").unlink()
    (top / "hard-2").write_bytes(b"another inode")
    (top / "relative").unlink()
    (top / "relative").symlink_to("empty")
    (top / "setuid").chmod(0o600)
    for name in os.listxattr(top / "program"):
        os.removexattr(top / "program", name)
    (top / "folder" / "inner").rename(top / "inner moved")
    os.utime(top / "folder", ns=(TIMES[1], TIMES[1]))


def digest(folder: Path) -> dict[str, dict[str, Any]]:
    """Everything below a folder, the folder itself as ".": content hashes, owners, modes, times, xattrs (with ACLs and
    capabilities), links with what shares their inode, devices, holes. Equal digests mean equal trees."""
    inodes: dict[tuple[int, int], list[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    for path in _walk(os.fsencode(folder)):
        name = _word(os.path.relpath(path, os.fsencode(folder)))
        facts = os.lstat(path)
        found[name] = _facts(path, facts)
        if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
            inodes.setdefault((facts.st_dev, facts.st_ino), []).append(name)
    for names in inodes.values():
        for name in names:
            found[name]["same"] = sorted(names)
    return found


def _walk(folder: bytes) -> list[bytes]:
    paths = [folder]
    for here, folders, files in os.walk(folder):
        paths += [os.path.join(here, name) for name in (*folders, *files)]
    return sorted(paths)


def _facts(path: bytes, facts: os.stat_result) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": stat.filemode(facts.st_mode)[0],
        "mode": oct(stat.S_IMODE(facts.st_mode)),
        "owner": [facts.st_uid, facts.st_gid],
        "mtime": facts.st_mtime_ns,
    }
    attributes = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in _attributes(path)}
    if attributes:
        found["xattrs"] = attributes
    if stat.S_ISREG(facts.st_mode):
        found["size"] = facts.st_size
        found["sha256"] = _hash(path)
        # How holes are laid out differs between file systems; that there are some must not.
        found["sparse"] = facts.st_blocks * 512 < facts.st_size // 2
    elif stat.S_ISLNK(facts.st_mode):
        found["target"] = _word(os.readlink(path))
    elif stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode):
        found["device"] = [os.major(facts.st_rdev), os.minor(facts.st_rdev)]
    return found


def _attributes(path: bytes) -> list[str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []
    # A labelling kernel and an overlay add their own.
    return sorted(name for name in names if not name.startswith(("security.selinux", "trusted.overlay.")))


def _hash(path: bytes) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def _word(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def differences(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """What a restore did not put back, a line each; empty where the trees are equal."""
    lines = [f"{name}: gone" for name in sorted(before.keys() - after.keys())]
    lines += [f"{name}: was not there" for name in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        keys = before[name].keys() | after[name].keys()
        lines += [
            f"{name}: {key} was {before[name].get(key)!r}, is {after[name].get(key)!r}"
            for key in sorted(keys)
            if before[name].get(key) != after[name].get(key)
        ]
    return lines


def main(argv: list[str]) -> None:
    """`make`, `digest` or `spoil` a folder."""
    action, folder = argv
    if action == "make":
        print(json.dumps(make(Path(folder))))
    elif action == "digest":
        print(json.dumps(digest(Path(folder))))
    elif action == "spoil":
        spoil(Path(folder))
    else:
        raise SystemExit(f"{action}? make, digest or spoil")


if __name__ == "__main__":
    main(sys.argv[1:])
