"""Who else has a folder mounted: in any mount namespace of the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo: the device (major:minor), which folder of its file system, and where it is mounted."""

    device: str
    root: str
    point: str


def parse(text: str) -> Iterator[Mount]:
    """The lines of a /proc/PID/mountinfo (proc(5)); what is none is left out."""
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) > 4:
            yield Mount(words[2], _plain(words[3]), _plain(words[4]))


def _plain(word: str) -> str:
    """The kernel writes blanks, tabs, line ends and backslashes as octal."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(octal, char)
    return word


def users(folder: Path) -> list[int]:
    """Processes, one for each mount namespace, that see this folder, or one in it, at another place than we do."""
    place = _place(folder)
    if place is None:
        return []
    device, root = place
    found: list[int] = []
    for pid in _namespaces():
        text = _read(_PROC / str(pid) / "mountinfo")
        if any(one.device == device and _inside(one.root, root) and one.point != str(folder) for one in parse(text)):
            found.append(pid)
    return found


def _place(folder: Path) -> tuple[str, str] | None:
    """The device a folder is on, and which folder of that device it is."""
    best: Mount | None = None
    for one in parse(_read(_PROC / "self" / "mountinfo")):
        if _inside(str(folder), one.point) and (best is None or len(one.point) >= len(best.point)):
            best = one
    if best is None:
        return None
    return best.device, str(PurePosixPath(best.root) / PurePosixPath(folder).relative_to(best.point))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _namespaces() -> list[int]:
    """One process of each mount namespace."""
    seen: dict[str, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                seen.setdefault(os.readlink(entry / "ns" / "mnt"), int(entry.name))  # noqa: PTH115 - not a path
            except OSError:
                continue
    return sorted(seen.values())


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
