"""The services that run on the host itself: programs that listen, with their ports and what they take of memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from triune.host.listeners import holders, listeners

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Service:
    """`ports` are like 8080/tcp. `memory` is the proportional set size of all its processes in bytes (PSS, of
    smaps_rollup in the kernel's Documentation/filesystems/proc.rst), None where it can't be read.
    """

    program: str
    ports: tuple[str, ...]
    memory: int | None


def serving() -> list[Service]:
    """By program; one row for a program that several processes are. Those in containers are not the host's.

    Without root, other users' processes can't be seen.
    """
    wanted = listeners()
    ports: dict[str, set[tuple[int, str]]] = {}
    held = holders(wanted)
    for listener in wanted:
        pid, program = held.get(listener.inode, (0, ""))
        if program and _on_the_host(pid):
            ports.setdefault(program, set()).add((listener.port, listener.protocol))
    return [
        Service(program, tuple(f"{port}/{protocol}" for port, protocol in sorted(where)), _memory(program))
        for program, where in sorted(ports.items())
    ]


def _on_the_host(pid: int) -> bool:
    """Whether it sees the processes that we see: a container's are in a namespace of their own."""
    try:
        return (_PROC / str(pid) / "ns/pid").readlink() == (_PROC / "self/ns/pid").readlink()
    except OSError:
        return False


def _memory(program: str) -> int | None:
    parts = [_pss(folder) for folder in _processes(program)]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _processes(program: str) -> Iterator[Path]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                same = (folder / "comm").read_text().strip() == program
            except OSError:
                continue
            if same and _on_the_host(int(folder.name)):
                yield folder


def _pss(folder: Path) -> int | None:
    try:
        text = (folder / "smaps_rollup").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), None)
