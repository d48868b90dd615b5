"""When a rule of the audit holds: conditions on facts, as the rules' files write them.

`{key: value}` is equality, `{key: {any: true}}` something rather than nothing, `{key: {above: N}}` a larger number. All
keys must hold. What is unknown (None) meets no condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "any": lambda value, wanted: bool(value) is wanted,
    "above": lambda value, wanted: bool(value > wanted),
}


def holds(when: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether all of it holds."""
    return all(_one(facts[key], wanted) for key, wanted in when.items())


def _one(value: Any, wanted: Any) -> bool:
    if value is None:
        return False
    if isinstance(wanted, Mapping):
        return all(_OPERATORS[name](value, operand) for name, operand in wanted.items())
    return bool(value == wanted)


def problems(when: Any, known: frozenset[str]) -> list[str]:
    """What is wrong with a condition as it is written."""
    if not isinstance(when, Mapping) or not when:
        return [f"{when!r} is no condition"]
    found = [f"no fact {key!r}" for key in when if key not in known]
    operators = [name for wanted in when.values() if isinstance(wanted, Mapping) for name in wanted]
    return found + [f"no operator {name!r}" for name in operators if name not in _OPERATORS]
