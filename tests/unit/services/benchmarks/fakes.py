"""Subjects that answer at once, and results made of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triune.domain.errors import Failed, Unsupported
from triune.services.benchmarks.subject import EMULATED, NATIVE, About, Output, Reached, Stored

WORDS = {
    "native": ("native", ""),
    "alpha": ("Alpha machines", EMULATED),
    "beta": ("Beta containers", ""),
}


class FakeSubject:
    """`figures` are what its commands print, in turn; `log` is shared, to see the order."""

    def __init__(self, name: str, log: list[str], *, broken: str = "", figures: Sequence[float] = (10.0,)) -> None:
        self.name = name
        self.log = log
        self.broken = broken
        self.figures = figures
        self.count = 0
        self.closed = False

    @property
    def about(self) -> About:
        title, label = WORDS[self.name]
        return About(self.name, title, "a fake", "1.0", label)

    @property
    def address(self) -> str:
        return "192.0.2.1"

    def open(self) -> None:
        self.log.append(f"open {self.name}")
        if self.broken == "open":
            raise Failed("no_room", "there is no room", hint="")

    def run(self, argv: Sequence[str], timeout: float) -> Output:
        self.log.append(f"{self.name}: {' '.join(argv)}")
        if self.broken and self.broken in argv:
            return Output(1, "", "it broke", 0.1)
        self.count += 1
        value = self.figures[(self.count - 1) % len(self.figures)]
        return Output(0, f"events per second: {value}\nversion 7\n", "", 0.1)

    def stored(self, form: str) -> Stored:
        if form != "tree":
            raise Unsupported("no_form", f"{self.name} has no {form}", hint="")
        return Stored("/there/file", self.run)

    def reached(self, way: str) -> Reached:
        if self.name == "alpha" and way == "host":
            raise Unsupported("no_way", f"{self.name} has a network of its own", hint="")
        return Reached(f"{way}.inside", "192.0.2.9", self.run, {15201: 40001} if way == "nat" else {})

    def life(self, wanted: frozenset[str]) -> Mapping[str, float]:
        self.log.append(f"{self.name}: life")
        return {"running": 0.5, "ready": 1.5} if self.name != NATIVE else {"running": 0.01}

    def crowd(self, count: int) -> Mapping[str, float]:
        return {"ready": float(count)} if self.name != NATIVE else {}

    def close(self) -> None:
        self.closed = True


class Told:
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.samples: list[tuple[str, str, float]] = []

    def step(self, text: str, fraction: float) -> None:
        assert 0 <= fraction <= 1

    def sampled(self, benchmark: Any, subject: str, value: float) -> None:
        self.samples.append((benchmark.id, subject, value))

    def problem(self, text: str) -> None:
        self.problems.append(text)


def result(figures: Mapping[str, Mapping[str, Sequence[float]]], **changes: Any) -> dict[str, Any]:
    """A result's content from samples by benchmark and subject; the benchmarks are the catalogue's."""
    from triune.services.benchmarks.catalogue import catalogue
    from triune.services.benchmarks.running import Plan, blank

    known = catalogue()
    benchmarks = tuple(found for found in known.benchmarks if found.id in figures)
    plan = Plan(known=known, suite=known.suite("quick"), benchmarks=benchmarks, rounds=4, cpus=2, memory=2**30)
    host = {"hostname": "box", "kernel": "6.1", "cpu": "a processor", "cpus": 2, "memory_bytes": 2**34}
    facts = {
        "id": "abc123",
        "triune": "0.1.0",
        "image": {"name": "triune-bench/12", "digest": "sha256:0"},
        "host": host,
        "load": {"before": {"load1": 0.1, "busy": 0.05}, "after": None},
        "loaded": False,
        "warnings": [],
    }
    data = blank(plan, facts)
    names = list(dict.fromkeys(name for samples in figures.values() for name in samples))
    data["subjects"] = [
        {"name": name, "title": title, "label": label, "what": "", "version": ""}
        for name, (title, label) in ((name, WORDS.get(name, (name, ""))) for name in names)
    ]  # fmt: skip
    data["samples"] = [
        {"benchmark": benchmark, "subject": name, "round": number, "value": value}
        for benchmark, samples in figures.items()
        for name, values in samples.items()
        for number, value in enumerate(values, 1)
    ]
    return {**data, "state": "complete", **changes}
