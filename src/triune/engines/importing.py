"""The facet of imports: a machine that was made elsewhere becomes an instance, whatever its disks came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from triune.domain.instance import InstanceSpec
from triune.domain.machine import Machine, MachineDisk
from triune.domain.network import Nic
from triune.domain.operation import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinePlan:
    """All that `create` needs. `nics` has one for each card of the machine, in their order; None: it is not plugged in.
    A card without an address gets one by DHCP."""

    spec: InstanceSpec
    machine: Machine
    created: datetime
    nics: tuple[Nic | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What a started machine shows of itself. `agent`: the guest agent answers. `said` are the last bytes of its serial
    console."""

    running: bool
    agent: bool = False
    said: bytes = b""


Write = Callable[[MachineDisk, Path], None]
"""Writes a disk's content as a qcow2 file of its own."""


class Importing(Protocol):
    """Machines with firmware, disks and cards of their own."""

    def check(self, plan: MachinePlan) -> Sequence[str]:
        """Raise Invalid or Unsupported if `create` would refuse this plan. Returns what of it this host can't give, a
        sentence each."""

    def create(self, plan: MachinePlan, write: Write, progress: Progress) -> None:
        """Make it, stopped, with what `write` makes of each disk. `Engine.delete` is its undo. Leaves nothing behind
        when it raises."""

    def signs(self, name: str) -> Signs:
        """Look whether it lives. Cheap; asked again and again. An agent that answers once is remembered."""
