"""`bench run`: what it needs, from the daemon and on this host, and what it leaves: a result and nothing else."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune import __version__
from triune.cli.bench_instance import InstanceSubject
from triune.cli.waiting import finish
from triune.domain.errors import Failed, Invalid, TriuneError
from triune.domain.limits import Limits
from triune.domain.units import format_size
from triune.host.beneath import remove_tree
from triune.sdk import Client
from triune.sdk.types import OperationRow
from triune.services.benchmarks import native, results
from triune.services.benchmarks.catalogue import OUTSIDE, catalogue
from triune.services.benchmarks.conditions import conditions, load, loaded
from triune.services.benchmarks.line import Line
from triune.services.benchmarks.running import Plan, Run, Watcher, blank
from triune.services.benchmarks.subject import NATIVE, Subject

_SPACE = 3 * 2**30
_PATIENCE_S = 240.0
_WORK = "work"
_PREFIX = "bench-"


class Bench:
    """One run against one daemon."""

    def __init__(self, client: Client, plan: Plan, *, image: str, output: Path | None, quiet: bool) -> None:
        self._client = client
        self._plan = plan
        self._image = image
        self._quiet = quiet
        self._id = secrets.token_hex(3)
        self._host = client.host()
        self.folder = Path(str(self._host["data"])) / results.FOLDER
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.path = output or self.folder / f"{stamp}-{plan.suite.name}-{self._id}.json"

    def run(self, engines: Sequence[str], watcher: Watcher) -> results.Result:
        """Measure. An interrupt leaves what there is, marked interrupted, and is raised again."""
        self._require_space()
        image = self._prepared()
        tree = (image["forms"].get("tree") or {}).get("path")
        data = blank(self._plan, self._facts(image))
        wanted, absent = self._wanted(engines, has_tree=bool(tree))
        data["absent"] += absent
        for row in absent:
            watcher.problem(f"{row['name']} is left out: {row['reason']}")
        for warning in data["warnings"]:
            watcher.problem(warning)
        results.write(self.path, data)
        with self._workplace() as work, _interruptible():
            client = self._native("client", work, tree, None) if tree and os.geteuid() == 0 else None
            line = Line(self._id) if client and self._ports() else None
            outside = self._native("outside", work, str(tree), None, line=line) if line else None
            subjects = [self._subject(name, work, tree, line) for name in wanted]
            run = Run(plan=self._plan, data=data, path=self.path, watcher=watcher, client=client, outside=outside)
            self._measured(run, subjects)
        data["load"]["after"] = load()
        results.write(self.path, data)
        return results.Result(data)

    def _measured(self, run: Run, subjects: Sequence[Subject]) -> None:
        clients = [found for found in (run.client, run.outside) if found]
        try:
            if run.client is not None:
                run.client.open()
            if run.outside is not None:
                try:
                    run.outside.open()
                except TriuneError as error:
                    run.warn(f"nothing is measured from outside of the host: {error.message}")
                    run.outside = None
            run.measure(subjects)
        finally:
            run.watcher.step("removing what was made", 1.0)
            with _undisturbed():
                for subject in (*subjects, *clients):
                    subject.close()

    def _require_space(self) -> None:
        free = int(self._host.get("data_free_bytes") or 0)
        if free < _SPACE:
            raise Failed(
                "no_space",
                f"only {format_size(free)} are free in {self._host['data']}; a run needs {format_size(_SPACE)}",
                hint="Make room (triune rm, triune image rm); see: df -h",
            )

    def _prepared(self) -> Mapping[str, Any]:
        """The image, built where it is not there yet or the catalogue wants more of it."""
        known = self._plan.known.image
        if self._image and self._image != known["name"]:
            return self._client.images.get(self._image)
        operation = self._client.images.build(
            known["name"], release=known["release"], packages=known["packages"], disabled=known["disabled"]
        )
        finish(self._client, operation, known["name"], quiet=self._quiet)
        return self._client.images.get(known["name"])

    def _facts(self, image: Mapping[str, Any]) -> dict[str, Any]:
        before = load()
        busy = loaded(before)
        return {
            "id": self._id,
            "triune": __version__,
            "image": {"name": image["name"], "digest": image["digest"]},
            "host": conditions(self._host),
            "load": {"before": before, "after": None},
            "loaded": bool(busy),
            "warnings": [busy] if busy else [],
        }

    def _wanted(self, engines: Sequence[str], *, has_tree: bool) -> tuple[list[str], list[dict[str, str]]]:
        """What can be measured of what is asked for (nothing: all), native first; and why not the rest."""
        rows = {row["name"]: row for row in self._host["engines"]}
        asked = list(dict.fromkeys(engines)) or [NATIVE, *rows]
        absent = []
        for name in asked:
            if name != NATIVE and name not in rows:
                raise Invalid(
                    "unknown_engine", f"there is no engine {name!r}", hint=f"There are {', '.join((NATIVE, *rows))}."
                )
            reason = ""
            if name == NATIVE:
                reason = "" if has_tree and os.geteuid() == 0 else "native figures are taken by root only, with sudo"
            elif not rows[name]["available"]:
                reason = rows[name]["reason"] or "it is not available"
            if reason:
                absent.append({"name": name, "reason": reason})
        left_out = {row["name"] for row in absent}
        wanted = sorted((name for name in asked if name not in left_out), key=lambda name: name != NATIVE)
        if not wanted:
            raise Failed(
                "nothing_to_measure", f"nothing can be measured: {absent[0]['reason']}", hint="See: triune doctor"
            )
        return wanted, absent

    def _ports(self) -> list[int]:
        """Of servers that are reached from outside of the host."""
        return sorted({found.port for found in self._plan.benchmarks if found.where == OUTSIDE})

    def _subject(self, name: str, work: Path, tree: str | None, line: Line | None) -> Subject:
        served = line.host if line else ""
        if name == NATIVE:
            limits = Limits(cpus=float(self._plan.cpus), memory=self._plan.memory)
            return self._native(NATIVE, work, str(tree), limits, served=served)
        row = next(row for row in self._host["engines"] if row["name"] == name)
        size = {"cpus": self._plan.cpus, "memory": self._plan.memory}
        image, service = self._image or self._plan.known.image["name"], self._plan.known.service
        return InstanceSubject(
            self._client,
            row,
            prefix=_PREFIX + self._id,
            image=image,
            size=size,
            service=service,
            patience=min(_PATIENCE_S, self._plan.suite.budget / 3 or _PATIENCE_S),
            outside=served,
            ports=self._ports(),
        )

    def _native(
        self, name: str, work: Path, tree: str, limits: Limits | None, *, served: str = "", line: Line | None = None
    ) -> native.Native:
        service = self._plan.known.service
        return native.Native(f"{self._id}-{name}", work / name, Path(tree), service, limits, served=served, line=line)

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        """A locked folder of our own; first, what dead runs left is removed."""
        base = self.folder / _WORK
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError:
            if os.geteuid() == 0:
                raise
            yield base  # nothing is put there without root
            return
        sweep(self._client, base)
        place = base / self._id
        place.mkdir()
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield place
        finally:
            os.close(lock)
            remove_tree(place)


def sweep(client: Client, base: Path) -> None:
    """Remove what runs left that were killed: instances, control groups and files."""
    for place in base.iterdir():
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        finally:
            os.close(lock)
        _remove_all(client, f"{_PREFIX}{place.name}-")
        native.end_group(native.leftovers(place.name))
        remove_tree(place)


def _remove_all(client: Client, prefix: str) -> None:
    """Instances, and then the volumes and pools that they used."""
    removals: list[tuple[str, Callable[[str], OperationRow]]] = [
        (row["name"], lambda name: client.instances.remove(name, force=True)) for row in client.instances.list()[0]
    ]
    removals += [(volume["name"], client.volumes.remove) for volume in client.volumes.list()]
    removals += [(pool["name"], client.pools.remove) for pool in client.pools.list()]
    for name, remove in removals:
        if name.startswith(prefix):
            with suppress(TriuneError):
                client.operations.result(remove(name)["id"], timeout=60)


def read(name: str | None) -> results.Result:
    """A result by its file, or the newest of the daemon's host."""
    return results.load(Path(name) if name else results.latest(folder()))


def folder() -> Path:
    """Where results are kept; the usual place where no daemon tells."""
    try:
        return Path(str(Client().host()["data"])) / results.FOLDER
    except (TriuneError, KeyError):
        return Path(os.environ.get("TRIUNE_DATA", "/var/lib/triune")) / results.FOLDER


def planned(suite: str, only: Sequence[str], repeat: int | None, cpus: int | None, memory: int | None) -> Plan:
    """What is asked for. Raises Invalid."""
    known = catalogue()
    chosen = known.suite(suite)
    return Plan(
        known=known,
        suite=chosen,
        benchmarks=known.only(suite, only),
        rounds=repeat or chosen.rounds,
        cpus=cpus or min(2, os.cpu_count() or 1),
        memory=memory or 2**30,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Being ended by TERM or a closed terminal is an interrupt: what was made is removed."""

    def told(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second interrupt must not leave half of it behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
