"""Hosts and instances of a fleet, as their files name them.

Hosts: `name`, `cpus`, `memory`, and if they limit `disk` and `iops`; `engines` and `labels` (words with blanks
between), `zone` (a rack, a room: what fails together), `count` (so many alike, NAME-1 …).

Instances: `name`, `cpus`, `memory`, `disk`, `iops`, `count`; `engine` where it is settled, else any keys of a workload
(docs/ADVISE.md); `needs` (labels of the host); `apart` (a word: those that share it never share a host), `together` (a
word: on one host, all or none), `spread` (a word: evenly over the zones).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triune.domain.errors import Invalid
from triune.domain.units import parse_cpus, parse_size
from triune.domain.workload import EXPECTED, KEYS
from triune.services.placement.problem import Floats
from triune.services.placement.rows import Column, Rows, read, too_many

RESOURCES = ("cpus", "memory", "disk", "iops")
MOST_HOSTS, MOST_INSTANCES = 10_000, 1_000_000
MILLI = 1000.0
_LARGEST = 2.0**50

# Keys of a workload that are not columns: the fleet has words of its own for them, or a row has one value.
_NOT_COLUMNS = frozenset({"name", "description", "instances", "cpus", "memory", "disk", "image", "engines"})


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_INSTANCES:
        raise ValueError(text)
    return int(text)


def _cpus(text: str) -> float:
    """Thousandths, rounded up."""
    return math.ceil(parse_cpus(text) * MILLI - 1e-6)


def _size(text: str) -> float:
    size = parse_size(text)
    if size > _LARGEST:
        raise ValueError(text)
    return float(size)


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e12:
        raise ValueError(text)
    return math.ceil(value)


def _words(text: str) -> tuple[str, ...]:
    return tuple(sorted(set(text.replace(";", " ").replace("|", " ").split())))


_SIZE, _CPUS, _NUMBER = "a size like 512MiB", "a number of CPUs like 2 or 0.5", "a whole number from 1"
HOST_COLUMNS = (
    Column(name="name", read=str, expected="a name", required=True),
    Column(name="cpus", read=_cpus, expected=_CPUS, required=True),
    Column(name="memory", read=_size, expected=_SIZE, required=True),
    Column(name="disk", read=_size, expected=_SIZE, default=math.inf),
    Column(name="iops", read=_rate, expected="requests a second", default=math.inf),
    Column(name="engines", read=_words, expected="names of engines with blanks between", default=()),
    Column(name="zone", read=str, expected="a word", default=""),
    Column(name="labels", read=_words, expected="words with blanks between", default=()),
    Column(name="count", read=_count, expected=_NUMBER, default=1),
)
_OWN = (
    Column(name="name", read=str, expected="a name", required=True),
    Column(name="cpus", read=_cpus, expected=_CPUS, default=0.0),
    Column(name="memory", read=_size, expected=_SIZE, required=True),
    Column(name="disk", read=_size, expected=_SIZE, default=0.0),
    Column(name="iops", read=_rate, expected="requests a second", default=0.0),
    Column(name="engine", read=str, expected="the name of an engine", default=""),
    Column(name="needs", read=_words, expected="labels of hosts, with blanks between", default=()),
    Column(name="apart", read=str, expected="a word", default=""),
    Column(name="together", read=str, expected="a word", default=""),
    Column(name="spread", read=str, expected="a word", default=""),
    Column(name="count", read=_count, expected=_NUMBER, default=1),
)


_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError(text)
    return _FLAGS[text.lower()]


_DEMANDED: Mapping[str, Callable[[str], Any]] = {"flag": _flag, "count": _count, "texts": _words, "words": _words}
DEMANDS = tuple(
    Column(name=key.name, read=_DEMANDED.get(key.kind, str), expected=EXPECTED[key.kind], optional=True)
    for key in KEYS.values()
    if key.name not in _NOT_COLUMNS
)
INSTANCE_COLUMNS = (*_OWN, *DEMANDS)


@dataclass(frozen=True, slots=True)
class HostKind:
    """What a host is besides its size; no `engines` means all."""

    engines: tuple[str, ...]
    zone: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hosts:
    """`capacity` is (hosts, RESOURCES): CPUs in thousandths, bytes, requests a second; infinite where unlimited."""

    names: Sequence[str]
    capacity: Floats
    kind: Sequence[int]
    kinds: Sequence[HostKind]


def read_hosts(name: str, raw: bytes) -> Hosts:
    """The hosts of a file. Raises Invalid."""
    rows = read(name, raw, HOST_COLUMNS, MOST_HOSTS, "hosts")
    repeat = _repeats(rows, MOST_HOSTS, "hosts")
    capacity = _amounts(rows)[repeat]
    kinds: dict[HostKind, int] = {}
    kind = [
        kinds.setdefault(HostKind(*of), len(kinds))
        for of in zip(rows.columns["engines"], rows.columns["zone"], rows.columns["labels"], strict=True)
    ]
    return Hosts(_names(rows, "host"), capacity, [kind[row] for row in repeat.tolist()], list(kinds))


def read_instances(name: str, raw: bytes) -> Rows:
    """The instances of a file, each row repeated `count` times. Raises Invalid."""
    rows = read(name, raw, INSTANCE_COLUMNS, MOST_INSTANCES, "instances")
    names = _names(rows, "instance")
    if any(count > 1 for count in rows.columns["count"]):
        repeat = _repeats(rows, MOST_INSTANCES, "instances").tolist()
        rows.columns = {word: [values[row] for row in repeat] for word, values in rows.columns.items()}
        rows.lines = [rows.lines[row] for row in repeat]
    rows.columns["name"] = names
    return rows


def amounts(rows: Rows) -> Floats:
    """(rows, RESOURCES)."""
    return _amounts(rows)


def _amounts(rows: Rows) -> Floats:
    return np.array([rows.columns[word] for word in RESOURCES], dtype=np.float64).T.copy()


def _repeats(rows: Rows, most: int, what: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    counts = np.array(rows.columns["count"], dtype=np.int64)
    if counts.sum() > most:
        raise too_many(rows.where, what, most)
    return np.repeat(np.arange(len(rows)), counts)


def _names(rows: Rows, what: str) -> list[str]:
    """Names of all, NAME-1, NAME-2 … where a row counts for several. Raises Invalid("duplicate_name")."""
    found: list[str] = []
    for name, count in zip(rows.columns["name"], rows.columns["count"], strict=True):
        found += [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
    if len(set(found)) != len(found):
        raise _duplicate(rows, found, what)
    return found


def _duplicate(rows: Rows, names: Iterable[str], what: str) -> Invalid:
    owners = (row for row, count in enumerate(rows.columns["count"]) for _ in range(count))
    seen: dict[str, int] = {}
    for name, row in zip(names, owners, strict=True):
        if name in seen:
            return Invalid(
                "duplicate_name",
                f"{rows.at(row)}: there is another {what} {name!r}, in {rows.unit} {rows.lines[seen[name]]}",
                hint="Give each a name of its own.",
                where=rows.at(row),
            )
        seen[name] = row
    raise AssertionError
