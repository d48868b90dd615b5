"""File systems: what the data folder lies on, copying without copying, overlays and idmapped mounts."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.domain.finding import Finding
from triune.host import idmap, syscalls
from triune.host.probe.view import Facts, View, missing, ok, unknown, warning

AREA = "storage"
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: where, and which file system."""

    target: str
    kind: str
    source: str


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse /proc/self/mountinfo (proc(5)): fields before ` - ` vary in number. Wrong lines are skipped."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if separator and len(left) >= 6 and len(right) >= 2:
            mounts.append(Mount(_unescape(left[4]), right[0], _unescape(right[1])))
    return mounts


def _unescape(word: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, char)
    return word


def mount_of(mounts: Sequence[Mount], path: str) -> Mount | None:
    """The mount that a path lies on; later mounts hide earlier ones at the same place."""
    best: Mount | None = None
    for mount in mounts:
        inside = mount.target in ("/", path) or path.startswith(f"{mount.target}/")
        if inside and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    return best


def nearest(path: Path) -> Path:
    """The path, or its nearest folder that exists and that we may see."""
    while not os.path.exists(path) and path != path.parent:  # noqa: PTH110
        path = path.parent
    return path


def probe(view: View) -> Sequence[Finding]:
    """The data folder, overlay, btrfs, ZFS and idmapped mounts."""
    kinds = _known_kinds(view)
    return [_data(view), _overlay(view, kinds), _btrfs(view, kinds), _zfs(view, kinds), _idmap(view)]


def _known_kinds(view: View) -> frozenset[str]:
    lines = view.files.lines("/proc/filesystems")
    return frozenset(line.split()[-1] for line in lines if line.split())


def _module_file(view: View, folder: str) -> bool:
    release = view.files.text("/proc/sys/kernel/osrelease") or ""
    return any(
        name.split(".ko")[0] == folder.rsplit("/", 1)[-1]
        for name in view.files.names(f"/lib/modules/{release}/kernel/{folder}")
    )


def _data(view: View) -> Finding:
    mount = mount_of(parse_mountinfo(view.files.text("/proc/self/mountinfo") or ""), view.data_dir)
    kind = mount.kind if mount else "unknown"
    reflink = _reflink(view)
    facts: Facts = {"path": view.data_dir, "filesystem": kind, "reflink": reflink}
    if kind in ("nfs", "nfs4", "cifs", "9p", "tmpfs", "vboxsf", "fuseblk"):
        sentence = f"{view.data_dir} lies on {kind}, which cannot hold disks and trees safely; use a local file system."
        return warning("storage.data", AREA, sentence, **facts)
    if reflink:
        return ok("storage.data", AREA, f"{view.data_dir} lies on {kind}, which clones files without copying.", **facts)
    how = "cannot clone files; overlays and qcow2 chains are used" if reflink is False else "is used"
    return ok("storage.data", AREA, f"{view.data_dir} lies on {kind}: it {how}.", **facts)


def _reflink(view: View) -> bool | None:
    """Try to clone one unnamed file into another; None where that could not be tried."""
    if not (view.live and view.root):
        return None
    folder = nearest(view.files.path(view.data_dir))
    try:
        with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as copy:
            source.write(b"\0" * 4096)
            source.flush()
            try:
                fcntl.ioctl(copy, _FICLONE, source.fileno())
            except OSError:
                return False
            return os.fstat(copy.fileno()).st_size == 4096
    except OSError:
        return None


def _overlay(view: View, kinds: frozenset[str]) -> Finding:
    if "overlay" in kinds:
        return ok("storage.overlay", AREA, "Overlay mounts work: system containers share their image's tree.")
    if _module_file(view, "fs/overlayfs/overlay") or _module_file(view, "fs/overlayfs"):
        return warning("storage.overlay", AREA, "The overlay module is not loaded yet.", "modprobe overlay")
    return missing("storage.overlay", AREA, "The kernel has no overlay file system: containers cannot share an image.")


def _btrfs(view: View, kinds: frozenset[str]) -> Finding:
    tools = view.tools.find("btrfs") is not None
    if "btrfs" not in kinds and not _module_file(view, "fs/btrfs"):
        return missing("storage.btrfs", AREA, "The kernel has no btrfs.", optional=True, tools=tools)
    if not tools:
        sentence = "The kernel has btrfs, but its tools are not installed."
        fix = "apt-get install -y --no-install-recommends btrfs-progs"
        return missing("storage.btrfs", AREA, sentence, fix, optional=True, tools=tools)
    return ok("storage.btrfs", AREA, "btrfs can be used for pools.", tools=tools)


def _zfs(view: View, kinds: frozenset[str]) -> Finding:
    if "zfs" in kinds or view.files.exists("/dev/zfs"):
        return ok("storage.zfs", AREA, "ZFS is loaded and can be used for pools.")
    if view.tools.find("zfs"):
        return missing("storage.zfs", AREA, "ZFS is installed but not loaded.", "modprobe zfs", optional=True)
    return missing("storage.zfs", AREA, "ZFS is not installed, so no pool can lie on it.", optional=True)


def _idmap(view: View) -> Finding:
    if not (view.live and view.root):
        return unknown("storage.idmap", AREA, "Idmapped mounts can only be tried by root.", "sudo triune doctor")
    try:
        _try_idmap(nearest(view.files.path(view.data_dir)))
    except (OSError, TriuneError) as error:
        sentence = f"Idmapped mounts do not work here ({error}): unprivileged containers need their own copy of a tree."
        return warning("storage.idmap", AREA, sentence)
    return ok("storage.idmap", AREA, "Idmapped mounts work: an image's tree serves unprivileged containers as it is.")


def _try_idmap(folder: Path) -> None:
    """Map the ids of a detached mount of a folder's file system; it is attached nowhere, so nothing is left."""
    with idmap.user_namespace(idmap.IdRange(1_000_000)) as namespace:
        tree = syscalls.open_tree(folder)
        try:
            syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_IDMAP, namespace)
        finally:
            os.close(tree)
