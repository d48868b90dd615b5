"""The group that may use the daemon, and root's subordinate ids."""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass

from triune.host.idmap import subordinate_range
from triune.host.kvm import libvirt_reprobes
from triune.host.setup.machine import Machine
from triune.host.setup.step import Say

GROUP = "triune"
_FIRST = 1_000_000
_COUNT = 1_000_000_000
_NEEDED = 65_536
_LAST = 2**32 - 2


@dataclass(slots=True)
class Group:
    """Members of the group may use the daemon's socket, and so are as mighty as root."""

    machine: Machine
    title: str = "Group triune"
    needed: bool = True

    def gap(self) -> str | None:
        """Whether /etc/group has it."""
        names = {line.partition(":")[0] for line in self.machine.files.lines("/etc/group")}
        return None if GROUP in names else "create it"

    def fill(self, say: Say) -> None:
        """Create it as a system group."""
        self.machine.run("groupadd", "--system", GROUP)


def free_range(texts: list[str]) -> tuple[int, int] | None:
    """A (start, count) that no line of these subuid(5) files overlaps; None where no large enough one is left.

    The usual range of a thousand million from 1,000,000 if it is free, else what follows the highest one given away.
    """
    taken = [span for text in texts for span in _spans(text)]
    if not any(start < _FIRST + _COUNT and end > _FIRST for start, end in taken):
        return _FIRST, _COUNT
    start = max([end for _, end in taken] + [_FIRST])
    start += -start % _NEEDED
    count = min(_COUNT, _LAST - start)
    return (start, count) if count >= _NEEDED else None


def _spans(text: str) -> list[tuple[int, int]]:
    found = []
    for line in text.splitlines():
        _, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        if all(part.isascii() and part.isdigit() for part in (start, count)):
            found.append((int(start), int(start) + int(count)))
    return found


@dataclass(slots=True)
class SubordinateIds:
    """Root's range in /etc/subuid and /etc/subgid, for unprivileged containers."""

    machine: Machine
    title: str = "Subordinate ids of root"
    needed: bool = True

    def gap(self) -> str | None:
        """The range to add."""
        have = subordinate_range("root", self.machine.files.path("/etc"))
        if have is not None and have.count >= _NEEDED:
            return None
        fresh = self._fresh()
        return (
            f"give root {fresh[1]} ids from {fresh[0]} in /etc/subuid and /etc/subgid" if fresh else "no range is free"
        )

    def _fresh(self) -> tuple[int, int] | None:
        return free_range([self.machine.files.text(f"/etc/{name}") or "" for name in ("subuid", "subgid")])

    def fill(self, say: Say) -> None:
        """Add one line to each file."""
        fresh = self._fresh()
        if fresh is None:
            return
        for name in ("subuid", "subgid"):
            lines = self.machine.files.lines(f"/etc/{name}")
            self.machine.write(f"/etc/{name}", "\n".join([*lines, f"root:{fresh[0]}:{fresh[1]}"]) + "\n")


@dataclass(slots=True)
class KvmAccess:
    """QEMU's user may open /dev/kvm; udev grants that where it runs. Else every start of a VM waits for libvirt."""

    machine: Machine
    title: str = "Access to /dev/kvm"
    needed: bool = False

    def gap(self) -> str | None:
        """Whether QEMU's user is kept out."""
        reason = libvirt_reprobes() if self.machine.files.exists("/dev/kvm") else None
        return "give it to group kvm" if reason else None

    def fill(self, say: Say) -> None:
        """Do as udev's rule does: root:kvm, 0660."""
        device = self.machine.files.path("/dev/kvm")
        os.chown(device, 0, grp.getgrnam("kvm").gr_gid)
        device.chmod(0o660)
