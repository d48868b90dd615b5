"""What is measured: an instance of an engine, or the host itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

NATIVE = "native"
"""The name of the host itself among the subjects."""

EMULATED = "emulated (no KVM on this host)"
FOLDER = "/bench"

NAT, HOST = "nat", "host"
"""Ways to be reached: by published ports of an instance behind its bridge, or on the host's own network."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left; `seconds` it took."""

    status: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True, slots=True)
class About:
    """`label` is shown wherever its figures are: that it is emulated. `what` says in a sentence what it is."""

    name: str
    title: str
    what: str
    version: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a form of storage is: a file or device, and what runs commands that see it."""

    path: str
    run: Callable[[Sequence[str], float], Output]


@dataclass(frozen=True, slots=True)
class Reached:
    """What a network outside of the host sees: servers that listen on `inside` are found at `address`, those of `ports`
    at another port; `run` runs commands beside them."""

    inside: str
    address: str
    run: Callable[[Sequence[str], float], Output]
    ports: Mapping[int, int] = field(default_factory=dict)


class Subject(Protocol):
    """A place that programs of the image run in. Commands and lives may raise any TriuneError."""

    @property
    def about(self) -> About:
        """What it is."""
        ...

    @property
    def address(self) -> str:
        """Where servers in it are reached from the host; once it is open."""
        ...

    def open(self) -> None:
        """Make the place that commands run in."""
        ...

    def run(self, argv: Sequence[str], timeout: float) -> Output:
        """Run a command in it to its end."""
        ...

    def stored(self, form: str) -> Stored:
        """A place with storage of this form; the same at every call. Raises Unsupported where it cannot have it."""
        ...

    def reached(self, way: str) -> Reached:
        """A place whose servers a network outside of the host reaches this way; the same at every call. Raises
        Unsupported where it cannot have it."""
        ...

    def life(self, wanted: frozenset[str]) -> Mapping[str, float]:
        """Make, use and remove a fresh instance: seconds or MiB by figure, those that there are."""
        ...

    def crowd(self, count: int) -> Mapping[str, float]:
        """The same of several at once."""
        ...

    def close(self) -> None:
        """Remove everything it made. Never raises TriuneError."""
        ...
