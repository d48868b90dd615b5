"""Unpacking a root tarball that somebody else made, and looking for what a tree can start. See host/untar.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triune.domain.operation import Progress
from triune.host import untar
from triune.host.beneath import Root
from triune.host.untar import Archive, Policy, Unpacked
from triune.services.images.streams import decompressed

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(path: Path, *, whole: bool = True) -> Iterator[Archive]:
    """The archive's entries, compressed or not. Raises Invalid("corrupt_archive", "unsafe_archive")."""
    with untar.explained(), decompressed(path) as stream, untar.opened(stream, whole=whole) as archive:
        yield archive


def unpack(path: Path, target: Path, max_size: int, progress: Progress, *, everything: bool = False) -> Unpacked:
    """Unpack into `target` (an existing empty folder). Owners, modes and times are kept, of extended attributes the
    capabilities; with `everything` also access lists, users' attributes, and the mode of `target` itself."""
    policy = Policy(
        owner=untar.own_ids,
        attributes=untar.everything if everything else untar.capabilities,
        whole=everything,
        max_size=max_size,
    )
    top = os.open(target, _FOLDER)
    try:
        with untar.explained(), decompressed(path) as stream:
            return untar.unpack(stream, top, policy, progress)
    finally:
        os.close(top)


def find_init(tree: Path) -> str | None:
    """The init program of an unpacked tree, its links resolved inside it."""
    with Root(tree) as root:
        for path in ("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/init"):
            if root.exists(path):
                return path
    return None


def has_program(tree: Path, path: str) -> bool:
    """Whether a program is in the tree, its links resolved inside it."""
    with Root(tree) as root:
        return root.exists(path)
