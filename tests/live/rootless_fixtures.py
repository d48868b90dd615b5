"""A rootless Docker daemon of the tests' own, beside one that the host may have."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triune.host.rootless import Place
from triune.host.setup.machine import Machine
from triune.host.setup.plan import carry_out
from triune.host.setup.rootless import RootlessDaemon, RootlessGone, RootlessPackages, RootlessUser
from triune.host.setup.step import Step

PLACE = Place(
    user="triune-test-docker",
    home=Path("/var/lib/triune-test-docker"),
    runtime=Path("/run/triune-test-docker"),
)


def say(mark: str, text: str) -> None:
    """Steps are told to whoever reads the test's output."""
    print(mark, text)


def started() -> None:
    """Make it, or start it again."""
    machine = Machine()
    steps: list[Step] = [RootlessPackages(machine), RootlessUser(machine, PLACE), RootlessDaemon(machine, PLACE)]
    carry_out(steps, say, "")


@contextmanager
def rootless_docker() -> Iterator[Place]:
    """It is there meanwhile, and nothing of it afterwards."""
    with Path("/tmp/triune-rootless.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started()
        try:
            yield PLACE
        finally:
            carry_out([RootlessGone(Machine(), PLACE)], say, "")
