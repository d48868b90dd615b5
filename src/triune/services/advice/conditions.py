"""When a rule holds: conditions on a workload's keys, as the rules' files write them.

`{key: value}` is equality, `{key: [a, b]}` any of them, `{key: {OPERATOR: operand}}` one of the operators below. All
keys of a mapping must hold; of a list of mappings, one must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from triune.domain.workload import KEYS, Workload

Host = Mapping[str, Any]


def _has(value: Any, operand: Any, host: Host) -> bool:
    del host
    return bool(set(value) & set(operand if isinstance(operand, list) else [operand]))


def _foreign(value: Any, operand: Any, host: Host) -> bool:
    return (
        bool(value) and bool(host.get("architecture")) and _processor(value) != _processor(host["architecture"])
    ) is (operand)


def _processor(name: str) -> str:
    plain = name.lower().replace("-", "_")
    return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(plain, plain)


def _above_host(value: Any, operand: Any, host: Host) -> bool:
    most = host.get(operand)
    return value is not None and isinstance(most, int | float) and value > most


_OPERATORS: Mapping[str, Callable[[Any, Any, Host], bool]] = {
    "not": lambda value, operand, _: value != operand,
    "any": lambda value, operand, _: bool(value) is operand,
    "has": _has,
    "at_least": lambda value, operand, _: value is not None and value >= operand,
    "at_most": lambda value, operand, _: value is not None and value <= operand,
    "above": lambda value, operand, _: value is not None and value > operand,
    "foreign": _foreign,
    "above_host": _above_host,
}


def holds(when: Any, workload: Workload, host: Host) -> bool:
    """Whether a condition holds for a workload on a host (its facts; empty where they are not known)."""
    if isinstance(when, list):
        return any(holds(each, workload, host) for each in when)
    return all(_one(workload[key], expected, host) for key, expected in when.items())


def _one(value: Any, expected: Any, host: Host) -> bool:
    if isinstance(expected, Mapping):
        return all(_OPERATORS[name](value, operand, host) for name, operand in expected.items())
    return bool(value in expected) if isinstance(expected, list) else bool(value == expected)


def problems(when: Any) -> list[str]:
    """What is wrong with a condition as it is written: unknown keys, operators, words."""
    if isinstance(when, list):
        return [problem for each in when for problem in problems(each)]
    if not isinstance(when, Mapping) or not when:
        return [f"{when!r} is no condition"]
    found = []
    for key, expected in when.items():
        if key not in KEYS:
            found.append(f"no key {key!r}")
            continue
        words = KEYS[key].words
        if isinstance(expected, Mapping):
            found += [f"{key}: no operator {name!r}" for name in expected if name not in _OPERATORS]
            values = [item for name in ("has", "not") for item in _listed(expected.get(name, []))]
        else:
            values = _listed(expected)
        found += [f"{key}: no word {value!r}" for value in values if words and value not in words]
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
