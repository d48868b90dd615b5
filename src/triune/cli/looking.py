"""Where a workload comes from when it is not written down: files, instances, and questions in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli.text import clean
from triune.domain.errors import Invalid
from triune.domain.units import format_size
from triune.domain.workload import KEYS
from triune.sdk import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triune.services.advice.seen import Seen

_LARGEST = 2**20
_MOST_VALUES = 100_000

# In the order in which the answers narrow it down.
_QUESTIONS = (
    *("os", "packaging", "trust", "own_kernel", "pci_passthrough", "live_migration", "administration", "state"),
    *("init_system", "docker_inside", "ci", "lifetime", "gpu", "io", "instances", "memory"),
)


def look(way: str, what: str) -> Seen:
    """Read a workload off a thing: `way` is compose, dockerfile, vmx, instance or host."""
    from triune.host.serving import serving
    from triune.services.advice import compose, dockerfile, machine

    if way == "compose":
        return compose.from_compose(load(what))
    if way == "dockerfile":
        return dockerfile.from_dockerfile(read(what).decode(errors="replace"))
    if way == "vmx":
        return machine.from_vmx(read(what))
    client = Client()
    if way == "instance":
        return machine.from_instance(dict(client.instances.get(what)), client.host())
    rows, _ = client.instances.list()
    found = [dict(client.instances.get(row["name"])) for row in rows[:64]]
    return machine.from_host([*found, *map(dict, rows[64:])], client.host(), serving())


def load(name: str) -> object:
    """A YAML or JSON file's contents. Raises Invalid."""
    import yaml

    raw = read(name)
    try:
        data = yaml.safe_load(raw.decode()) or {}
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise Invalid("bad_workload", f"{name}{line} is no YAML", hint="See its keys: triune advise --schema") from None
    _require_bounded(name, data)
    return data


def _require_bounded(name: str, data: object) -> None:
    """Refuse what grows without end by references to itself, or beyond measure by references to references."""
    rest, seen = [data], 0
    while rest:
        value = rest.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise Invalid(
                "bad_workload", f"{name} has more than {_MOST_VALUES:,} values", hint="Write its references (&, *) out."
            )
        if isinstance(value, dict):
            rest += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            rest += value


def read(name: str, *, code: str = "bad_workload", most: int = _LARGEST) -> bytes:
    """A file's bytes, `most` at most; - is stdin. Raises Invalid(code)."""
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(most + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(most + 1)
    except OSError as error:
        raise Invalid(code, f"can't read {name}: {error.strerror}", hint="Name a readable file.") from None
    if len(raw) > most:
        raise Invalid(code, f"{name} is larger than {format_size(most)}", hint="Is it the right file?")
    return raw


def ask() -> Mapping[str, Any]:
    """Ask for the common demands; an empty answer is no demand."""
    click.echo("Sixteen questions; an empty answer means that it does not matter.", err=True)
    said: dict[str, Any] = {}
    for name in _QUESTIONS:
        key = KEYS[name]
        words = "/".join(key.words) or ("y/n" if key.kind == "flag" else key.kind)
        while (
            answer := click.prompt(f"{key.meaning} [{words}]", default="", show_default=False, err=True).strip()
        ) != "":
            value = _answered(name, answer.lower())
            if value is not None:
                said[name] = value
                break
            click.echo(f"  {clean(answer)!r} is none of these", err=True)
    return said


def _answered(name: str, answer: str) -> Any:
    """The value; None where it is none."""
    from triune.domain.workload import parse

    value: Any = answer
    if KEYS[name].kind == "flag":
        value = {"y": True, "yes": True, "n": False, "no": False}.get(answer)
    elif KEYS[name].kind == "count":
        value = int(answer) if answer.isascii() and answer.isdigit() else None
    if value is None:
        return None
    try:
        parse({name: value})
    except Invalid:
        return None
    return value
