"""Kernel limits that some dozens of instances run into, raised for this boot and the next."""

from __future__ import annotations

from dataclasses import dataclass

from triune.host.probe.resources import LIMITS
from triune.host.setup.machine import Machine
from triune.host.setup.step import Say

FILE = "/etc/sysctl.d/60-triune.conf"


@dataclass(slots=True)
class KernelLimits:
    """Unprivileged containers share one range of ids, so what the kernel allows a user is shared by all of them: with
    Debian's 128 inotify instances the systemd of the twentieth container ends as it starts.
    """

    machine: Machine
    title: str = "Kernel limits for many instances"
    needed: bool = False

    def gap(self) -> str | None:
        """Which are too low now."""
        low = [f"{key} to {wanted}" for key, wanted in self._low()]
        return f"raise {', '.join(low)}" if low else None

    def fill(self, say: Say) -> None:
        """Write what is too low beside what was written before, and apply it."""
        low = self._low()
        keys = tuple(key for key, _ in low)
        kept = [line for line in self.machine.files.lines(FILE) if not line.startswith(keys)]
        lines = kept or ["# Written by triune setup."]
        for key, wanted in low:
            lines.append(f"{key} = {wanted}")
            self.machine.files.path(f"/proc/sys/{key.replace('.', '/')}").write_text(f"{wanted}\n")
        self.machine.write(FILE, "\n".join([*lines, ""]))

    def _low(self) -> list[tuple[str, int]]:
        found = []
        for key, _, _, wanted in LIMITS:
            value = self.machine.files.number(f"/proc/sys/{key.replace('.', '/')}")
            if value is not None and value < wanted:
                found.append((key, wanted))
        return found
