"""`density` of one host: reading what is asked, the tables, JSON."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triune.cli import looking, trying
from triune.cli.advise import host_facts
from triune.cli.tables import Column, structured, table
from triune.cli.text import clean, colours, paint, width
from triune.domain.errors import Invalid, Unsupported
from triune.domain.units import format_size, parse_cpus, parse_size

if TYPE_CHECKING:
    from triune.domain.workload import Workload
    from triune.services.placement.capacity import Budget, Line
    from triune.services.placement.figures import Figures
    from triune.services.placement.trial import Bounds, Filled

_MIX_SEEN = 6
_RANDOM = ("disk.random.read.32", "disk.random.write.32")
_MOST = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a plan, as they were given."""

    memory: str | None
    cpus: str | None
    disk: str | None
    iops: float | None
    reserve: str | None
    mix: str | None
    workload: str | None
    memory_overcommit: float
    cpu_overcommit: float
    busy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked, read, with the figures that it is answered by."""

    host: Mapping[str, Any]
    known: Figures
    budget: Budget
    mix: dict[str, int] | None
    workload: Workload | None
    blocked: Mapping[str, str]
    lines: Sequence[Line]
    notes: tuple[str, ...]


def plan(asked: Asked, host: Mapping[str, Any] | None = None) -> Plan:
    """Read it. Raises Invalid, and Unsupported("impossible_mix") where the workload can't run as the mix has it."""
    from triune.host.ceilings import ceilings
    from triune.services.placement.capacity import lines
    from triune.services.placement.figures import figures

    host = host_facts() if host is None else host
    planned = asked.memory is not None or asked.cpus is not None
    data = Path(host["data"]) if host else None
    benched = _benched(data, host)
    known, notes = figures(data / trying.FOLDER if data else None, benched, planned=planned)
    rate = None if planned else _requests(benched)
    if rate is not None and asked.iops is None:
        asked = replace(asked, iops=rate)
        notes = (*notes, f"the disks take {rate:,.0f} requests a second, measured here by triune bench")
    if not host:
        notes = ("no daemon answers: figures are published, disk is not counted", *notes)
    budget = _budget(asked, host)
    mix = _mix(asked.mix, list(known.engines)) if asked.mix is not None else None
    workload, blocked = _workload(asked.workload, host)
    for engine, reason in blocked.items():
        if mix and mix.get(engine):
            raise Unsupported(
                "impossible_mix",
                f"the mix has {mix[engine]} {engine}, and the workload can't run there: {reason}",
                hint="Leave that engine out of --mix, or change the workload: triune advise --workload FILE",
            )
    return Plan(
        host=host,
        known=known,
        budget=budget,
        mix=mix,
        workload=workload,
        blocked=blocked,
        lines=lines(known, budget, ceilings(), workload),
        notes=notes,
    )


def _benched(data: Path | None, host: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `triune bench` found on this host, by engine."""
    from triune.services.benchmarks.measured import measured
    from triune.services.benchmarks.results import FOLDER

    return measured(data / FOLDER, host.get("hostname")) if data else {}


def _requests(benched: Mapping[str, Any]) -> float | None:
    """Requests a second that this host's disks take natively, reading or writing; None where it was not measured."""
    from triune.services.benchmarks.subject import NATIVE

    there = benched.get(NATIVE, {})
    rates = [there[name]["median"] for name in _RANDOM if name in there and there[name]["unit"] == "IOPS"]
    return float(min(rates)) if rates else None


def _budget(asked: Asked, host: Mapping[str, Any]) -> Budget:
    from triune.services.placement.capacity import Budget, reserve_of

    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = parse_size(asked.memory) if asked.memory else here
    disk = parse_size(asked.disk) if asked.disk else None
    if disk is None and host and asked.memory is None and host.get("hostname") == platform.node():
        disk = shutil.disk_usage(host["data"]).free
    return Budget(
        memory=memory,
        cpus=parse_cpus(asked.cpus) if asked.cpus else float(os.cpu_count() or 1),
        disk=disk,
        iops=asked.iops,
        reserve=parse_size(asked.reserve) if asked.reserve else reserve_of(memory),
        memory_overcommit=asked.memory_overcommit,
        cpu_overcommit=asked.cpu_overcommit,
        busy=asked.busy,
    )


def _mix(text: str, engines: Sequence[str]) -> dict[str, int]:
    import difflib

    found: dict[str, int] = {}
    for pair in filter(None, (word.strip() for word in text.split(","))):
        engine, equals, count = (word.strip() for word in pair.partition("="))
        if not equals or not count.isascii() or not count.isdigit() or int(count) > _MOST or engine in found:
            raise Invalid("bad_mix", f"{pair!r} is no ENGINE=COUNT", hint="Write it like --mix kvm=2,lxc=20,docker=50.")
        if engine not in engines:
            near = difflib.get_close_matches(engine, engines, 1, 0.5)
            did = f"Did you mean {near[0]!r}? " if near else ""
            raise Invalid(
                "unknown_engine", f"there is no engine {engine!r}", hint=f"{did}Engines: {', '.join(engines)}."
            )
        found[engine] = int(count)
    if not sum(found.values()):
        raise Invalid("bad_mix", "the mix has no instance", hint="Write it like --mix kvm=2,lxc=20,docker=50.")
    return {engine: count for engine, count in found.items() if count}


def _workload(file: str | None, host: Mapping[str, Any]) -> tuple[Workload | None, dict[str, str]]:
    """The workload, and why engines can't serve it."""
    from triune.domain.workload import parse
    from triune.services.advice.advising import rank, require_consistent
    from triune.services.advice.knowledge import knowledge

    if file is None:
        return None, {}
    workload = parse(looking.load(file))
    if workload.parts:
        raise Invalid(
            "workload_has_parts",
            f"{file} describes {len(workload.parts)} parts, and one kind of instance is counted at a time",
            hint="Plan each part alone, or all of them as instances of a fleet: triune density --fleet",
        )
    require_consistent(workload, knowledge(), host)
    # What this host lacks is no reason here: the plan may be for another.
    ranking = rank(workload, {}, knowledge())
    return workload, {ranked.engine: ranked.blocked[0].text for ranked in ranking if ranked.blocked}


def answer(found: Plan) -> dict[str, Any]:
    """The JSON of `triune density`; see docs/DENSITY.md."""
    from triune.host.ceilings import shared_pages
    from triune.services.placement.capacity import SCHEMA, alone, mixed, risk

    engines = []
    for engine in found.known.engines:
        row = alone(found.lines, engine)
        if engine in found.blocked:
            row = {**row, "fits": 0, "bound_by": "workload"}
        engines.append({**row, "blocked": found.blocked.get(engine, "")})
    mix = {**mixed(found.lines, found.mix), "risk": _risk(found, found.mix)} if found.mix else None
    for row in engines:
        row["risk"] = risk(found.budget, found.known, found.workload, {row["engine"]: row["fits"]})
    budget = found.budget
    return {
        "schema": SCHEMA,
        "host": found.host.get("hostname") or platform.node(),
        "kernel": platform.release(),
        "measured": found.known.time or None,
        "budget": {
            "memory": budget.memory,
            "reserve": budget.reserve,
            "cpus": budget.cpus,
            "disk": budget.disk,
            "iops": budget.iops,
            "memory_overcommit": budget.memory_overcommit,
            "cpu_overcommit": budget.cpu_overcommit,
            "busy": budget.busy,
        },
        "workload": found.workload.demands() if found.workload else None,
        "figures": [figure.as_dict() for figure in found.known.engines.values()],
        "engines": engines,
        "mix": mix,
        "ksm": shared_pages(),
        "notes": list(found.notes),
        "fill": None,
    }


def _risk(found: Plan, mix: Mapping[str, int]) -> dict[str, Any]:
    from triune.services.placement.capacity import risk

    return dict(risk(found.budget, found.known, found.workload, mix))


def require_mix(data: Mapping[str, Any]) -> None:
    """Raises Unsupported("mix_does_not_fit")."""
    mix = data["mix"]
    if mix is None or mix["fits"]:
        return
    worst = mix["needs"][0]
    raise Unsupported(
        "mix_does_not_fit",
        f"the mix needs {_so_much(worst['needed'], worst)}, and there {'are' if worst['unit'] == 'count' else 'is'} "
        f"{amount(worst['most'], worst['unit'])}",
        hint=f"It fits {mix['times']:g} times: take less, or have more {worst['what']}.",
    )


def _so_much(value: float, limit: Mapping[str, Any]) -> str:
    """`1,024 inotify instances`, `31.4 GiB of memory`."""
    return f"{amount(value, limit['unit'])}{' ' if limit['unit'] == 'count' else ' of '}{limit['what']}"


def amount(value: float, unit: str) -> str:
    """Of a limit, for people."""
    if unit == "bytes":
        return format_size(int(value))
    said = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2g}"
    return f"{said} CPUs" if unit == "cpus" else said


_FIGURES = (
    Column("ENGINE", lambda row: row["engine"]),
    Column("FIT", lambda row: row["fit"], right=True),
    Column("BOUND BY", lambda row: row["bound"]),
    Column("NEXT LIMIT", lambda row: row["next"], keep=5),
    Column("MEMORY EACH", lambda row: row["memory"], right=True),
    Column("FIRST MORE", lambda row: row["first"], right=True, keep=4),
    Column("IDLE CPU", lambda row: row["cpu"], right=True, keep=3),
    Column("FIGURES", lambda row: row["from"], keep=8),
)
_NEEDS = (
    Column("LIMIT", lambda row: row["what"]),
    Column("NEEDED", lambda row: amount(row["needed"], row["unit"]), right=True),
    Column("THERE IS", lambda row: amount(row["most"], row["unit"]), right=True),
    Column("SHARE", lambda row: "-" if row["share"] is None else f"{row['share']:.1%}", right=True),
)


def show(found: Plan, data: Mapping[str, Any]) -> None:
    """Print an answer for people."""
    colour, limit = colours(sys.stdout), width(sys.stdout)
    budget = found.budget
    parts = [f"{format_size(budget.memory)} of memory ({format_size(budget.reserve)} kept for the host)"]
    parts += [f"{budget.cpus:g} CPUs", *([f"{format_size(budget.disk)} of disk"] if budget.disk is not None else [])]
    print(paint(", ".join(parts), "bold", colour))
    rows = [_row(found, row) for row in data["engines"]]
    sys.stdout.write(table(rows, _FIGURES, limit=limit, colour=colour))
    for row in data["engines"]:
        if row["blocked"]:
            _say(f"{row['engine']} can't run it: {clean(row['blocked'])}")
    _tell_raises(data["engines"])
    if data["mix"]:
        _show_mix(data["mix"], limit, colour)
    _tell_risk(found, data)
    for note in _notes(found, data):
        _say(f"note: {clean(note)}")


def _row(found: Plan, row: Mapping[str, Any]) -> dict[str, str]:
    from triune.services.placement.capacity import memory_of

    figure = found.known.engines[row["engine"]]
    after = next((limit for limit in row["limits"][1:] if limit["fits"] < _MOST), None)
    return {
        "engine": row["engine"],
        "fit": f"{row['fits']:,}",
        "bound": "the workload" if row["blocked"] else row["limits"][0]["what"],
        "next": f"{after['what']}: {after['fits']:,}" if after else "-",
        "memory": format_size(memory_of(figure, found.workload)),
        "first": format_size(figure.memory_first) if figure.memory_first else "-",
        "cpu": f"{figure.cpu:.2%}" if figure.cpu else "-",
        "from": figure.origin,
    }


def _tell_raises(engines: Sequence[Mapping[str, Any]]) -> None:
    told = set()
    for row in engines:
        first = row["limits"][0]
        if first["raised"] and not row["blocked"] and first["name"] not in told:
            told.add(first["name"])
            _say(f"{first['what']} bind before memory: {first['raised']} raises that.")


def _say(text: str) -> None:
    """A sentence, wrapped where the terminal is narrow."""
    limit = width(sys.stdout)
    print(text if limit is None else textwrap.fill(text, limit, break_long_words=False, break_on_hyphens=False))


def _show_mix(mix: Mapping[str, Any], limit: int | None, colour: bool) -> None:
    said = ", ".join(f"{count:,} {engine}" for engine, count in mix["asked"].items())
    verdict = f"fit, {mix['times']:.3g} times" if mix["fits"] else f"do not fit, only {mix['times']:.3g} times"
    print("\n" + paint(f"{said}: {verdict}", "bold" if mix["fits"] else "red", colour))
    sys.stdout.write(table(mix["needs"][:_MIX_SEEN], _NEEDS, limit=limit, colour=colour))


def _tell_risk(found: Plan, data: Mapping[str, Any]) -> None:
    rows = [(", ".join(data["mix"]["asked"]), data["mix"]["risk"])] if data["mix"] else []
    rows = rows or [(row["engine"], row["risk"]) for row in data["engines"] if row["fits"]]
    told = [
        f"{who}: {what} {risk[what]['probability']:.2%}"
        for who, risk in rows
        for what in ("cpu", "memory")
        if risk[what]["probability"]
    ]
    busy = f"if each is busy {found.budget.busy:.0%} of its time, independently of the others"
    if told:
        print()
        _say(f"Risk, the share of time in which more is asked than there is ({busy}): {'; '.join(told)}")
    elif found.budget.cpu_overcommit > 1 or found.budget.memory_overcommit > 1:
        print(
            "\nThe risk of this overcommit is not known: --workload says no cpus and memory"
            if found.workload is None
            else f"\nNo more is asked than there is, {busy}."
        )


def _notes(found: Plan, data: Mapping[str, Any]) -> list[str]:
    notes = list(found.notes)
    origins = {figure.origin for figure in found.known.engines.values()}
    if "published" in origins and found.host:
        notes.append("published figures include an ordinary workload; measure yours: sudo triune density --measure")
    if "emulated" in origins:
        notes.append("emulated: virtual machines were measured without KVM, which takes memory of its own")
    if found.known.time:
        notes.append(f"measured on {found.known.time}; shared pages are counted once")
    ksm = data["ksm"]
    notes.append(
        f"kernel same-page merging saves {format_size(ksm['saved_bytes'])} now"
        if ksm["running"]
        else "kernel same-page merging is off: alike pages of virtual machines are not shared"
    )
    return notes


def emit(data: Mapping[str, Any], form: str) -> None:
    """JSON and YAML as they are; CSV: a row for each engine."""
    if form == "csv":
        rows = [
            {key: row[key] for key in ("engine", "fits", "bound_by", "blocked")} | {"figures": figure["origin"]}
            for row, figure in zip(data["engines"], data["figures"], strict=True)
        ]
        sys.stdout.write(structured(rows, "csv"))
    else:
        sys.stdout.write(structured(data, form))


def compared(
    found: Plan, order: Sequence[str], bounds: Bounds, done: Filled, count: int, memory: int
) -> dict[str, Any]:
    """Prediction and truth of a fill; `memory_predicted` is for as many as really ran."""
    _, same = trying.predicted(found.known, order, replace(bounds, most=done.count, memory=1 << 62))
    return {
        "bounds": {"count": bounds.most, "seconds": bounds.seconds, "memory": bounds.memory},
        "predicted": {"count": count, "memory": memory},
        "started": done.started,
        "count": done.count,
        "ended_by": done.ended,
        "error": done.error,
        "memory": done.memory,
        "memory_predicted": same,
        "deviation": round(done.memory / same - 1.0, 4) if same else None,
        "seconds": round(done.seconds, 2),
        "figures": sorted({found.known.engines[engine].origin for engine in done.started}),
    }


_ENDED = {
    "count": "the count of --fill-most",
    "memory": "the memory of --fill-memory",
    "time": "the time of --fill-time",
    "host-memory": "the host's last tenth of memory",
    "error": "an error",
}


def show_fill(fill: Mapping[str, Any]) -> None:
    """Print what a fill proved."""
    colour = colours(sys.stdout)
    said = ", ".join(f"{count} {engine}" for engine, count in fill["started"].items()) or "nothing"
    print("\n" + paint(f"Filled with {said} in {fill['seconds']:.0f} s; all removed", "bold", colour))
    print(f"It ended by {_ENDED[fill['ended_by']]}{': ' + clean(fill['error']) if fill['error'] else ''}.")
    print(f"predicted  {fill['predicted']['count']} instances, {format_size(fill['predicted']['memory'])}")
    print(f"found      {fill['count']} instances, {format_size(fill['memory'])}")
    if fill["deviation"] is not None:
        print(
            f"As many as ran were predicted to take {format_size(fill['memory_predicted'])} "
            f"({', '.join(fill['figures'])} figures): the truth is {fill['deviation']:+.1%}."
        )
