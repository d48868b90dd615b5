"""What was read off something that exists: demands as a workload file has them, and what could not be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SOCKETS = frozenset({"/var/run/docker.sock", "/run/docker.sock"})
_SEPARATOR = re.compile(r"[^a-z0-9]+")
_LINUX = re.compile(r"linux|ubuntu|debian|centos|rhel|redhat|sles|suse|fedora|alma|rocky|oracle|photon|asianux|amazon")


@dataclass(frozen=True, slots=True)
class Seen:
    """`data` is for `domain.workload.parse`; `notes` are sentences."""

    data: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())


def folder_access(source: str) -> str:
    """Which `host_access` a bind mount of this path is; "" for a named volume."""
    if source in _SOCKETS:
        return "docker-socket"
    return "host-folders" if source.startswith(("/", ".", "~", "$")) else ""


def plain(text: str, limit: int = 200) -> str:
    """A text out of a file as a workload's values may be: one printable line."""
    return "".join(char if char.isprintable() else " " for char in text)[:limit].strip()


def guest_system(name: str) -> str:
    """`os` of a workload for a name of a guest system as VMware writes it, like windows2019srv-64."""
    low = _SEPARATOR.sub("", name.lower())
    for word, system in (
        *(("win", "windows"), ("longhorn", "windows"), ("vista", "windows")),
        *(
            ("darwin", "macos"),
            ("macos", "macos"),
            ("freebsd", "freebsd"),
            ("openbsd", "openbsd"),
            ("netbsd", "netbsd"),
        ),
    ):
        if low.startswith(word):
            return system
    if re.search(
        r"linux|ubuntu|debian|centos|rhel|redhat|sles|suse|fedora|alma|rocky|oracle|photon|asianux|amazon|vmkernel0",
        low,
    ):
        return "linux"
    return "other"
