"""The plan: every step in order, and carrying it out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from triune.domain.errors import Denied, Failed, TriuneError
from triune.host import rootless
from triune.host.setup.accounts import Group, KvmAccess, SubordinateIds
from triune.host.setup.daemons import LiveRestore, daemons
from triune.host.setup.limits import KernelLimits
from triune.host.setup.lxcfs import Lxcfs, LxcfsOptions, LxcfsUnit
from triune.host.setup.machine import Machine
from triune.host.setup.packages import Packages
from triune.host.setup.rootless import RootlessDaemon, RootlessPackages, RootlessUser
from triune.host.setup.service import CommandOnPath, Completion, TriuneDaemon
from triune.host.setup.step import Say, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for. `daemon` False leaves Triune's own daemon alone; `rootless` makes a Docker daemon
    that is not root, which later runs keep.
    """

    daemon: bool = True
    live_restore: bool = False
    rootless: bool = False
    machine: Machine = field(default_factory=Machine)


def plan(options: Options) -> list[Step]:
    """The steps, in the order in which they are to be done. Looks at nothing yet."""
    machine = options.machine
    steps: list[Step] = [
        LxcfsUnit(machine),
        Packages(machine),
        Group(machine),
        SubordinateIds(machine),
        KvmAccess(machine),
        KernelLimits(machine),
        *daemons(machine),
        Lxcfs(machine),
        LxcfsOptions(machine),
    ]
    # On a host that had Docker before us its configuration is its owner's; ours to set only where Docker is ours too.
    if options.live_restore or not machine.tools.find("dockerd"):
        steps.append(LiveRestore(machine))
    if options.rootless or rootless.installed(machine.files.root):
        steps += [RootlessPackages(machine), RootlessUser(machine), RootlessDaemon(machine)]
    steps += [CommandOnPath(machine), Completion(machine)]
    if options.daemon:
        steps.append(TriuneDaemon(machine))
    return steps


def apply(steps: Sequence[Step], say: Say) -> None:
    """Fill every gap. Raises Denied without root, and what a needed step raises; others are told and passed over."""
    if os.geteuid() != 0:
        raise Denied("needs_root", "only root can set this host up", hint="Run: sudo triune setup")
    carry_out(steps, say, "Run: triune setup --check")


def carry_out(steps: Sequence[Step], say: Say, hint: str) -> None:
    """Fill every gap; `hint` goes with Failed("setup_incomplete"), where a gap is left."""
    for step in steps:
        try:
            _apply(step, say, hint)
        except TriuneError as error:
            if step.needed:
                raise
            say("warn", f"{step.title}: {error.message}")


def _apply(step: Step, say: Say, hint: str) -> None:
    gap = step.gap()
    if gap is None:
        say("ok", step.title)
        return
    say("do", f"{step.title}: {gap}")
    step.fill(say)
    left = step.gap()
    if left is not None:
        raise Failed("setup_incomplete", f"{step.title}: still to do: {left}", hint=hint)
    say("done", f"{step.title}: done")
