"""What is measured: `catalogue.yaml`, read and checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from triune.domain.errors import Invalid
from triune.services.benchmarks.parsing import Parser
from triune.services.packaged import packaged

VERSION = 1
INSIDE, STORED, SERVED, OUTSIDE, BETWEEN = "inside", "stored", "served", "outside", "between"
LIFE, CROWD = "life", "crowd"
HIGHER, LOWER = "higher", "lower"

_NONE = Parser()
_TOKEN = re.compile(r"\{(seconds|cpus|address|port|folder|path|bind)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One entry of the catalogue; see the head of `catalogue.yaml`."""

    id: str
    area: str
    title: str
    unit: str
    better: str
    where: str
    tool: str
    suites: tuple[str, ...]
    relative: bool = True
    command: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    serve: tuple[str, ...] = ()
    unserve: tuple[str, ...] = ()
    port: int = 0
    figure: str = ""
    form: str = ""
    count: int = 1
    rounds: int = 0
    parser: Parser = _NONE


@dataclass(frozen=True, slots=True)
class Suite:
    """`rounds` over all benchmarks; `seconds` for each command; `budget` in seconds for the whole, 0: none."""

    name: str
    rounds: int
    seconds: int
    budget: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that can be measured, and with what."""

    image: Mapping[str, Any]
    service: Mapping[str, Any]
    suites: Mapping[str, Suite]
    areas: Mapping[str, str]
    tools: Mapping[str, Mapping[str, Any]]
    pairs: tuple[Mapping[str, str], ...]
    benchmarks: tuple[Benchmark, ...]

    def suite(self, name: str) -> Suite:
        """By name. Raises Invalid("unknown_suite")."""
        if name not in self.suites:
            raise Invalid("unknown_suite", f"there is no suite {name!r}", hint=f"Suites are {', '.join(self.suites)}.")
        return self.suites[name]

    def of(self, suite: str) -> tuple[Benchmark, ...]:
        """The benchmarks of a suite, in the order of the file."""
        return tuple(found for found in self.benchmarks if suite in found.suites)

    def only(self, suite: str, words: Sequence[str]) -> tuple[Benchmark, ...]:
        """Those of the whole catalogue with these ids or areas; of the suite where none are named.

        Raises Invalid("unknown_benchmark").
        """
        if not words:
            return self.of(suite)
        for word in words:
            if not any(_meant(found, word) for found in self.benchmarks):
                raise Invalid(
                    "unknown_benchmark",
                    f"there is no benchmark {word!r}",
                    hint=f"Areas are {', '.join(self.areas)}; ids are in docs/BENCH.md.",
                )
        return tuple(found for found in self.benchmarks if any(_meant(found, word) for word in words))


def _meant(found: Benchmark, word: str) -> bool:
    return word in (found.id, found.area) or found.id.startswith(f"{word}.")


@cache
def catalogue() -> Catalogue:
    """The one that came with this version. Raises ValueError where it is broken."""
    return read(packaged(__package__, VERSION, "catalogue.yaml"))


def read(data: Mapping[str, Any]) -> Catalogue:
    """A catalogue from the file's contents. Raises ValueError that lists all that is wrong with it."""
    wrong = [*_mistakes(data)]
    if wrong:
        raise ValueError("; ".join(wrong))
    return Catalogue(
        image=data["image"],
        service=data["service"],
        suites={name: Suite(name, **fields) for name, fields in data["suites"].items()},
        areas=data["areas"],
        tools=data["tools"],
        pairs=tuple(data.get("pairs", ())),
        benchmarks=tuple(_benchmark(fields) for fields in data["benchmarks"]),
    )


def _benchmark(fields: Mapping[str, Any]) -> Benchmark:
    lists = {key: tuple(str(word) for word in value) for key, value in fields.items() if isinstance(value, list)}
    parser = Parser(**fields.get("parser", {}))
    return Benchmark(**{**fields, **lists, "parser": parser})


def _mistakes(data: Mapping[str, Any]) -> Iterator[str]:
    if data.get("version") != VERSION:
        yield f"the catalogue is not of version {VERSION}"
    ids = [fields["id"] for fields in data["benchmarks"]]
    yield from (f"two benchmarks are called {name}" for name in {name for name in ids if ids.count(name) > 1})
    for fields in data["benchmarks"]:
        for key, known in (("area", data["areas"]), ("tool", data["tools"]), ("better", (HIGHER, LOWER))):
            if fields[key] not in known:
                yield f"{fields['id']}: no {key} {fields[key]!r}"
        yield from (f"{fields['id']}: no suite {suite!r}" for suite in fields["suites"] if suite not in data["suites"])
        yield from (f"{fields['id']}: lacks {key}" for key in _needed(fields["where"]) if not fields.get(key))
    for pair in data.get("pairs", ()):
        yield from (f"a pair of {pair[key]}, which is none" for key in ("first", "second") if pair[key] not in ids)


def _needed(where: str) -> tuple[str, ...]:
    words = {
        INSIDE: ("command", "parser"),
        STORED: ("command", "parser", "form"),
        SERVED: ("command", "parser", "serve", "unserve", "port"),
        OUTSIDE: ("command", "parser", "serve", "unserve", "port", "form"),
        BETWEEN: ("command", "parser", "serve", "unserve", "port"),
        LIFE: ("figure",),
        CROWD: ("figure", "count"),
    }
    return words.get(where, ("where",))


def filled(argv: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """A command with {seconds} and the like put in; other braces stay."""
    return [_TOKEN.sub(lambda match: str(values[match[1]]), word) for word in argv]
