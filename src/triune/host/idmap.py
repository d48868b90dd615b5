"""Id-mapped bind mounts: one root-owned tree, seen by a container's user namespace as its own, nothing copied.

`mount -o bind,X-mount.idmap=…` needs util-linux 2.39; these are the system calls it makes (Linux 5.12).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Failed
from triune.host import syscalls
from triune.host.run import environment, tool_missing

_READY = b"\n"


@dataclass(frozen=True, slots=True, order=True)
class IdRange:
    """Ids inside to inside+count-1 inside are base to base+count-1 outside, for users and groups alike."""

    base: int
    count: int = 65536
    inside: int = 0


def subordinate_range(account: str = "root", folder: Path = Path("/etc")) -> IdRange | None:
    """The account's largest range that both subuid(5) and subgid(5) in `folder` grant, or None."""
    users = _grants(folder / "subuid", account)
    groups = _grants(folder / "subgid", account)
    common = [
        IdRange(max(user.base, group.base), end - max(user.base, group.base))
        for user in users
        for group in groups
        if (end := min(user.base + user.count, group.base + group.count)) > max(user.base, group.base)
    ]
    return max(common, key=lambda grant: grant.count, default=None)


def _grants(path: Path, account: str) -> list[IdRange]:
    """Lines `account:base:count` of a subid file; lines that are not are skipped."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    grants = []
    for line in lines:
        owner, _, numbers = line.partition(":")
        base, _, count = numbers.partition(":")
        if owner in (account, "0") and _number(base) and _number(count):
            grants.append(IdRange(int(base), int(count)))
    return grants


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 2**32


@contextmanager
def user_namespace(ids: IdRange) -> Iterator[int]:
    """A descriptor of a user namespace with this map. A short-lived child makes it: we may have threads."""
    argv = ["unshare", "--user", "--", "cat"]
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
    except FileNotFoundError:
        raise tool_missing(argv[0]) from None
    with child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None  # noqa: S101
        try:
            child.stdin.write(_READY)
            child.stdin.flush()
            # cat echoes once it runs, and by then it is in its namespace.
            if child.stdout.read(len(_READY)) != _READY:
                said = child.stderr.read().decode(errors="replace").strip()
                raise Failed(
                    "user_namespace",
                    f"this host made no user namespace: {said}",
                    hint="Check: sysctl user.max_user_namespaces",
                )
            for kind in ("uid_map", "gid_map"):
                Path(f"/proc/{child.pid}/{kind}").write_text(f"{ids.inside} {ids.base} {ids.count}\n")
            fd = os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            child.stdin.close()
    try:
        yield fd
    finally:
        os.close(fd)


def bind(source: Path, target: Path, ids: IdRange | None, *, read_only: bool, devices: bool = True) -> None:
    """Mount `source` at `target`, its owner `ids.inside` shown as `ids.base` and so on (None: owners as they are).

    Mounts below `source` are left out; device files work only with `devices`. Raises OSError; EINVAL where the file
    system of `source` has no id-mapped mounts.
    """
    attributes = (syscalls.MOUNT_ATTR_RDONLY if read_only else 0) | (0 if devices else syscalls.MOUNT_ATTR_NODEV)
    with nullcontext() if ids is None else user_namespace(ids) as namespace:
        tree = syscalls.open_tree(source)
        try:
            if namespace is not None:
                syscalls.mount_setattr(tree, attributes | syscalls.MOUNT_ATTR_IDMAP, namespace)
            elif attributes:
                syscalls.mount_setattr(tree, attributes, 0)
            syscalls.move_mount(tree, target)
        finally:
            os.close(tree)
