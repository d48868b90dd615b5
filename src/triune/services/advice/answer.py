"""The answer to "which one fits": a ranking with reasons, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HYBRID = "hybrid"


def counted(points: float) -> str:
    """`1 point`, `2.5 points`."""
    return f"{points:g} point{'' if points == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence, its source, and the points it adds (0: it only informs). `measured`: by a benchmark, here."""

    text: str
    source: str
    rule: str
    weight: float = 0.0
    measured: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {"text": self.text, "source": self.source, "rule": self.rule, "weight": self.weight}


@dataclass(frozen=True, slots=True)
class Ranked:
    """One engine's place: `score` 0 to 100, and 0 where something blocks it."""

    engine: str
    score: float
    pro: tuple[Reason, ...]
    con: tuple[Reason, ...]
    blocked: tuple[Reason, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "engine": self.engine,
            "score": self.score,
            "for": [reason.as_dict() for reason in self.pro],
            "against": [reason.as_dict() for reason in self.con],
            "blocked_by": [reason.as_dict() for reason in self.blocked],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`choice` is an engine, "hybrid" where the parts differ, None where nothing serves. `rules` is for --explain."""

    name: str
    choice: str | None
    margin: float
    ranking: tuple[Ranked, ...]
    settings: tuple[Mapping[str, Any], ...] = ()
    command: tuple[str, ...] = ()
    would_change: tuple[Mapping[str, Any], ...] = ()
    hybrid: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    rules: tuple[Mapping[str, Any], ...] = ()
    parts: tuple[Answer, ...] = field(default=())
    version: str = ""
    workload: Mapping[str, Any] = field(default_factory=dict)

    def why(self, engine: str) -> str:
        """The strongest reasons for this engine, the best or as good as it, and by how much it leads: one sentence.

        It says where benchmarks of this host counted, for this engine or against another that could do it.
        """
        pro = next(ranked.pro for ranked in self.ranking if ranked.engine == engine)
        reasons = [reason.text for reason in pro if reason.weight > 0][:2]
        told = ", and ".join(reasons or ["nothing that was asked for speaks against it"])
        behind = f"; {counted(self.margin)} before the next" if len(self.ranking) > 1 and self.margin else ""
        able = [ranked for ranked in self.ranking if not ranked.blocked]
        sources = {reason.source for ranked in able for reason in (*ranked.pro, *ranked.con) if reason.measured}
        return f"{told}{behind}{''.join(f' ({source})' for source in sorted(sources))}"

    def as_dict(self, *, explain: bool = False) -> dict[str, Any]:
        """The JSON of `triune advise`."""
        import shlex

        data: dict[str, Any] = {
            "name": self.name,
            "choice": self.choice,
            "margin": self.margin,
            "ranking": [ranked.as_dict() for ranked in self.ranking],
            "settings": [dict(setting) for setting in self.settings],
            "command": shlex.join(self.command),
            "would_change": [dict(change) for change in self.would_change],
            "hybrid": [dict(one) for one in self.hybrid],
            "notes": list(self.notes),
            "parts": [part.as_dict(explain=explain) for part in self.parts],
            "rules_version": self.version,
            "workload": dict(self.workload),
        }
        if explain:
            data["rules"] = [dict(rule) for rule in self.rules]
        return data
