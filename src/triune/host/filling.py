"""Putting a tree that lies elsewhere into the place of another: moved where that is one file system, else copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from triune.host.copytree import copy_tree
from triune.host.run import run
from triune.host.syscalls import sync_fs


def put(source: Path, target: Path) -> None:
    """Replace what is in a folder by what is in another, and its owner, mode, times and attributes by the other's."""
    found = source.stat()  # moving things out of it changes its times
    for old in list(target.iterdir()):
        run(["rm", "-rf", "--", old], timeout=3600)
    try:
        for entry in list(source.iterdir()):
            entry.rename(target / entry.name)
    except OSError as error:
        # Another file system, or another mount of the same one: then that is so for the first entry already.
        if error.errno != errno.EXDEV:
            raise
        copy_tree(source, target)
    for key in os.listxattr(source, follow_symlinks=False):
        os.setxattr(target, key, os.getxattr(source, key, follow_symlinks=False), follow_symlinks=False)
    os.chown(target, found.st_uid, found.st_gid)
    target.chmod(found.st_mode & 0o7777)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    sync_fs(target)
