"""Which engines an instance of a fleet may run on, the best first, by the rules of `triune advise`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.workload import parse
from triune.services.advice.advising import rank, require_consistent
from triune.services.advice.knowledge import knowledge
from triune.services.placement.fleet import DEMANDS
from triune.services.placement.rows import Rows

_MOST_KINDS = 20_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Engines of an instance, the best first; none, and `why`, where no engine can serve it."""

    engines: tuple[str, ...]
    why: str = ""


def wanted(rows: Rows) -> tuple[list[Wanted], list[int]]:
    """The different wants, and the number of each row's. Raises Invalid for contradictory demands, with the line."""
    named = [column.name for column in DEMANDS if column.name in rows.columns]
    columns = [rows.columns[name] for name in named]
    numbers: dict[tuple[Any, ...], int] = {}
    found: list[Wanted] = []
    of_row: list[int] = []
    for row, said in enumerate(zip(rows.columns["engine"], *columns, strict=True)):
        number = numbers.get(said)
        if number is None:
            number = numbers[said] = len(found)
            if number >= _MOST_KINDS:
                raise Invalid(
                    "fleet_too_large",
                    f"{rows.where} has more than {_MOST_KINDS:,} kinds of workload",
                    hint="Describe like instances alike; sizes make no kind of their own.",
                )
            found.append(_wanted(rows.at(row), said[0], dict(zip(named, said[1:], strict=True))))
        of_row.append(number)
    return found, of_row


def _wanted(where: str, engine: str, demands: Mapping[str, Any]) -> Wanted:
    engines = knowledge().engines
    if engine and engine not in engines:
        raise Invalid(
            "unknown_engine", f"{where}: there is no engine {engine!r}", hint=f"Engines: {', '.join(engines)}."
        )
    said = {name: list(value) if isinstance(value, tuple) else value for name, value in demands.items()}
    try:
        workload = parse({**said, **({"engines": [engine]} if engine else {})})
        require_consistent(workload, knowledge(), {})
        ranking = rank(workload, {}, knowledge())
    except Invalid as error:
        raise Invalid(error.code, f"{where}: {error.message}", hint=error.hint, where=where) from None
    able = tuple(ranked.engine for ranked in ranking if not ranked.blocked)
    if able:
        return Wanted(able)
    named = [ranked for ranked in ranking if not engine or ranked.engine == engine]
    told = "; ".join(f"{ranked.engine}: {ranked.blocked[0].text}" for ranked in named)
    return Wanted((), f"no engine can serve it ({told})")
