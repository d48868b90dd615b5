"""A run: every benchmark in every subject, in turn, several times over; what is measured is kept at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from triune.domain.errors import Failed, NotFound, TriuneError, Unsupported
from triune.services.benchmarks import results
from triune.services.benchmarks.catalogue import (
    BETWEEN,
    CROWD,
    INSIDE,
    LIFE,
    OUTSIDE,
    SERVED,
    STORED,
    Benchmark,
    Catalogue,
    Suite,
    filled,
)
from triune.services.benchmarks.subject import FOLDER, NATIVE, Output, Reached, Stored, Subject

_SAVE_EVERY_S = 2.0
_PREPARE_S = 300.0
_COMMAND_S = 120.0
_MOST_FAILURES = 2
_OUTPUT = 2000
# Of the budget, so that what is under way and the removal fit in.
_SHARE = 0.88
_BY_HAND = "Launch the image and try it by hand: triune exec"
_LISTENS = 'until ss -Hltn "sport = :$1" | grep -q .; do sleep 0.02; done'


class Watcher(Protocol):
    """Is told how far a run is."""

    def step(self, text: str, fraction: float) -> None:
        """What is done now, and how much of the run is behind."""
        ...

    def sampled(self, benchmark: Benchmark, subject: str, value: float) -> None:
        """A figure."""
        ...

    def problem(self, text: str) -> None:
        """What did not work, and what follows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure; `rounds` as many samples of each."""

    known: Catalogue
    suite: Suite
    benchmarks: tuple[Benchmark, ...]
    rounds: int
    cpus: int
    memory: int


@dataclass(frozen=True, slots=True)
class _Turn:
    """One thing to do in one subject: a benchmark, or all those that one life tells."""

    benchmarks: tuple[Benchmark, ...]
    subject: Subject
    number: int
    client: Subject | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The same in every round."""
        return self.benchmarks[0].id, self.subject.about.name


@dataclass(slots=True)
class Run:
    """`data` is the result, written to `path` as it grows. `client` runs the programs that ask servers, `outside` those
    that ask them from a network outside of the host."""

    plan: Plan
    data: dict[str, Any]
    path: Path
    watcher: Watcher
    client: Subject | None = None
    outside: Subject | None = None
    clock: Callable[[], float] = time.monotonic
    _begun: float = 0.0
    _saved: float = 0.0
    _costs: dict[tuple[str, str], float] = field(default_factory=dict)
    _blocks: dict[tuple[str, str], dict[tuple[str, str], None]] = field(default_factory=dict)
    _decisions: dict[tuple[int, str, str], bool] = field(default_factory=dict)
    _skipped: list[_Turn] = field(default_factory=list)
    _lost: set[str] = field(default_factory=set)
    _failures: dict[tuple[str, str], int] = field(default_factory=dict)
    _prepared: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)

    def measure(self, subjects: Sequence[Subject]) -> None:
        """Take all samples; subjects that cannot be opened are left out. An interrupt leaves what there is."""
        self._begun = self.clock()
        try:
            there = self._opened(subjects)
            self._versions(there)
            turns = self._turns(there)
            for turn in turns:
                self._blocks.setdefault(self._block(turn), {})[turn.key] = None
            for index, turn in enumerate(turns):
                if self._left() <= 0:
                    self.warn(f"cut short after {index} of {len(turns)} steps: its time is up")
                    break
                if not self._affords(turn, turns[index:]):
                    self._skipped.append(turn)
                    continue
                self.watcher.step(_told(turn), index / len(turns))
                begun = self.clock()
                self._take(turn)
                self._costs[turn.key] = self.clock() - begun
            self._tell_skipped()
            self.data["state"] = results.COMPLETE
        except BaseException:
            self.data["state"] = results.INTERRUPTED
            raise
        finally:
            self.data["ended"] = datetime.now(UTC).isoformat()
            self.save()

    def save(self) -> None:
        """Write what there is."""
        results.write(self.path, self.data)
        self._saved = self.clock()

    def _left(self) -> float:
        """Seconds of the budget."""
        budget = self.plan.suite.budget
        return budget * _SHARE - (self.clock() - self._begun) if budget else float("inf")

    def _affords(self, turn: _Turn, rest: Sequence[_Turn]) -> bool:
        """Whether all that takes less still fits in afterwards; the first round is always taken.

        Subjects of full speed share one decision, as their figures are compared with each other; what is emulated may
        take many times as long, and stands for itself.
        """
        if turn.key not in self._costs or not self.plan.suite.budget:
            return True
        decided = (turn.number, *self._block(turn))
        if decided not in self._decisions:
            price = self._price(turn)
            mine = [other for other in rest if (other.number, *self._block(other)) == decided]
            cheaper = [other for other in rest if self._price(other) < price]
            need = sum(self._costs.get(other.key, 0.0) for other in (*mine, *cheaper))
            self._decisions[decided] = need <= self._left()
        return self._decisions[decided]

    def _block(self, turn: _Turn) -> tuple[str, str]:
        """What is taken or left out together."""
        about = turn.subject.about
        return turn.benchmarks[0].id, about.name if about.label else ""

    def _price(self, turn: _Turn) -> float:
        """What a whole block took in its last round."""
        block = self._block(turn)
        return sum(self._costs.get(key, 0.0) for key in self._blocks[block])

    def _tell_skipped(self) -> None:
        if not self._skipped:
            return
        slow = sorted({turn.key: turn for turn in self._skipped}.values(), key=lambda turn: -self._costs[turn.key])
        told = "; ".join(f"{_what(turn)}, {self._costs[turn.key]:.0f} s" for turn in slow[:3])
        self.warn(f"time was short: {len(self._skipped)} steps were left out after round 1, the slowest first ({told})")

    def _opened(self, subjects: Sequence[Subject]) -> list[Subject]:
        there: list[Subject] = []
        for subject in subjects:
            about = subject.about
            self.watcher.step(f"preparing {about.title}", 0.0)
            try:
                subject.open()
            except TriuneError as error:
                self.data["absent"].append({"name": about.name, "reason": error.message})
                self.watcher.problem(f"{about.title} is left out: {error.message}")
                continue
            there.append(subject)
            fields = ("name", "title", "what", "version", "label")
            self.data["subjects"].append({key: getattr(about, key) for key in fields})
        if not there:
            raise Failed("nothing_to_measure", "nothing could be made to measure in", hint="See: triune doctor")
        return there

    def _versions(self, there: Sequence[Subject]) -> None:
        """Of the tools, as the first subject has them: all have the same image."""
        import re

        found: dict[str, str] = {}
        for name in dict.fromkeys(benchmark.tool for benchmark in self.plan.benchmarks):
            tool = self.plan.known.tools[name]
            if not tool["command"]:
                continue
            try:
                output = there[0].run(tool["command"], _COMMAND_S)
                match = re.search(tool["pattern"], output.stdout + output.stderr)
                found[name] = match[1] if match else "unknown"
            except TriuneError:
                found[name] = "unknown"
        for row in self.data["benchmarks"]:
            row["tool"]["version"] = found.get(row["tool"]["name"], row["tool"]["version"])

    def _turns(self, there: Sequence[Subject]) -> list[_Turn]:
        """Round by round, benchmark by benchmark, subject by subject: what drifts hits all alike."""
        life = tuple(found for found in self.plan.benchmarks if found.where == LIFE)
        groups: list[tuple[Benchmark, ...]] = [
            (found,) for found in self.plan.benchmarks if found.where in (INSIDE, STORED, SERVED, OUTSIDE)
        ]
        groups += [life] if life else []
        crowds: dict[int, list[Benchmark]] = {}
        for found in self.plan.benchmarks:
            if found.where == CROWD:
                crowds.setdefault(found.count, []).append(found)
        groups += [tuple(found) for found in crowds.values()]
        between = self._between(there)
        return [
            turn
            for number in range(1, self.plan.rounds + 1)
            for turn in [
                *(
                    _Turn(group, subject, number, self.outside if group[0].where == OUTSIDE else self.client)
                    for group in groups
                    if number <= (group[0].rounds or self.plan.rounds)
                    for subject in there
                ),
                *(_Turn((found,), subject, number, client) for found, subject, client in between),
            ]
        ]

    def _between(self, there: Sequence[Subject]) -> list[tuple[Benchmark, Subject, Subject]]:
        """(benchmark, server, client) of each pair of instances of different kinds; the result gets their rows."""
        found = []
        for benchmark in (known for known in self.plan.benchmarks if known.where == BETWEEN):
            row = next(row for row in self.data["benchmarks"] if row["id"] == benchmark.id)
            rows = []
            for client in (subject for subject in there if subject.about.name != NATIVE):
                name, title = f"{benchmark.id}.{client.about.name}", f"{benchmark.title} {_called(client)}"
                rows.append({**row, "id": name, "title": title})
                one = replace(benchmark, id=name, title=title)
                found += [
                    (one, subject, client) for subject in there if subject.about.name not in (NATIVE, client.about.name)
                ]
            at = self.data["benchmarks"].index(row)
            self.data["benchmarks"][at : at + 1] = rows
        return found

    def _take(self, turn: _Turn) -> None:
        first, name, key = turn.benchmarks[0], turn.subject.about.name, turn.key
        if self._failures.get(key, 0) >= _MOST_FAILURES or name in self._lost:
            return
        try:
            match first.where:
                case "life":
                    self._figures(turn, turn.subject.life(frozenset(found.figure for found in turn.benchmarks)))
                case "crowd":
                    self._figures(turn, turn.subject.crowd(first.count))
                case _:
                    self._command(turn, first)
        except NotFound as error:
            self._lost.add(name)
            self.warn(f"{turn.subject.about.title} is left out from round {turn.number} on: {error.message}")
        except Unsupported as error:
            # By its kind: nothing went wrong, and it is not tried again.
            self._failures[key] = _MOST_FAILURES
            row = {"benchmark": first.id, "subject": name, "round": turn.number, "message": error.message}
            self.data["problems"].append({**row, "by_kind": error.code != "no_room"})
        except TriuneError as error:
            self._failures[key] = self._failures.get(key, 0) + 1
            row = {"benchmark": first.id, "subject": name, "round": turn.number, "message": error.message}
            self.data["problems"].append(row)
            left = "it is left out" if self._failures[key] >= _MOST_FAILURES else "it is tried again"
            self.watcher.problem(f"{first.id} in {name}: {error.message}; {left}")
        if self.clock() - self._saved > _SAVE_EVERY_S:
            self.save()

    def _figures(self, turn: _Turn, found: Mapping[str, float]) -> None:
        for benchmark in turn.benchmarks:
            value = found.get(benchmark.figure)
            if value is not None and value > 0:
                self._keep(benchmark, turn, value)

    def _command(self, turn: _Turn, benchmark: Benchmark) -> None:
        subject = turn.subject
        place = subject.stored(benchmark.form) if benchmark.where == STORED else Stored("", subject.run)
        server = Reached(subject.address, subject.address, subject.run)
        if benchmark.where == OUTSIDE:
            _require_client(turn.client)
            server = subject.reached(benchmark.form)
            place = Stored("", server.run)
        values = {
            "seconds": self.plan.suite.seconds, "cpus": self.plan.cpus, "address": server.inside,
            "folder": FOLDER, "path": place.path,
        }  # fmt: skip
        prepared = (f"{subject.about.name} {benchmark.form}", benchmark.prepare)
        if benchmark.prepare and prepared not in self._prepared:
            _require(place.run(filled(benchmark.prepare, values), _PREPARE_S), "prepare")
            self._prepared.add(prepared)
        if benchmark.where in (INSIDE, STORED):
            output = place.run(filled(benchmark.command, values), _COMMAND_S + self.plan.suite.seconds)
        else:
            output = self._asked(_require_client(turn.client), server, benchmark, values)
        _require(output, benchmark.command[0])
        self._keep(benchmark, turn, benchmark.parser.figure(output.stdout + output.stderr), output.stdout)

    def _asked(self, client: Subject, server: Reached, benchmark: Benchmark, values: Mapping[str, object]) -> Output:
        """Start the server, ask it from the client's place, end it."""
        found = {**values, "address": server.address, "port": server.ports.get(benchmark.port, benchmark.port)}
        _require(server.run(filled(benchmark.serve, values), _COMMAND_S), "the server")
        try:
            # Asked inside: to connect would already be a client's first word to some of them.
            _require(server.run(["sh", "-c", _LISTENS, "sh", str(benchmark.port)], _COMMAND_S / 2), "the server")
            return client.run(filled(benchmark.command, found), _COMMAND_S + self.plan.suite.seconds)
        finally:
            server.run(filled(benchmark.unserve, values), _COMMAND_S)

    def _keep(self, benchmark: Benchmark, turn: _Turn, value: float, output: str = "") -> None:
        name = turn.subject.about.name
        row: dict[str, Any] = {
            "benchmark": benchmark.id, "subject": name, "round": turn.number, "value": value,
            "time": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        if output and turn.number == 1:
            row["output"] = output[-_OUTPUT:]
        self.data["samples"].append(row)
        self.watcher.sampled(benchmark, name, value)

    def warn(self, text: str) -> None:
        """Something that whoever reads the result must know."""
        self.data["warnings"].append(text)
        self.watcher.problem(text)


def _require(output: Output, what: str) -> None:
    if output.status != 0:
        said = " / ".join((output.stderr or output.stdout).strip().splitlines()[-3:])[-300:]
        raise Failed("command_failed", f"{what} ended with {output.status}: {said or 'no message'}", hint=_BY_HAND)


def _require_client(client: Subject | None) -> Subject:
    if client is None:
        raise Failed("no_client", "only root can run the clients on the host", hint="Run it with sudo.")
    return client


def _called(subject: Subject) -> str:
    about = subject.about
    return f"{about.title}, {about.label}" if about.label else about.title


def _told(turn: _Turn) -> str:
    return f"{_what(turn)}, round {turn.number}"


def _what(turn: _Turn) -> str:
    first = turn.benchmarks[0]
    what = "start-up, service, stop" if first.where == LIFE else first.title
    return f"{what}: {turn.subject.about.title}"


def blank(plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A result without samples; `facts`: id, triune, image, host, load, warnings."""
    return {
        "schema": results.SCHEMA,
        "version": results.VERSION,
        **facts,
        "state": results.RUNNING,
        "suite": plan.suite.name,
        "rounds": plan.rounds,
        "seconds": plan.suite.seconds,
        "started": datetime.now(UTC).isoformat(),
        "ended": None,
        "limits": {"cpus": plan.cpus, "memory_bytes": plan.memory},
        "subjects": [],
        "absent": [],
        "benchmarks": [
            {
                "id": found.id,
                "area": found.area,
                "title": found.title,
                "unit": found.unit,
                "better": found.better,
                "relative": found.relative,
                "where": found.where,
                "command": list(found.command),
                "tool": {"name": found.tool, "version": str(facts.get("triune", ""))},
            }
            for found in plan.benchmarks
        ],
        "samples": [],
        "problems": [],
    }
