"""`advise`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli.options import formatted
from triune.cli.tables import structured
from triune.domain.errors import Invalid, TriuneError
from triune.domain.workload import KEYS, Workload, parse, schema
from triune.sdk import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LARGEST = 2**20
_FLAGS = (
    *("os", "packaging", "trust", "state", "administration", "lifetime", "gpu", "io", "network", "network_role"),
    *("orchestration", "snapshots", "init_system", "own_kernel", "kernel_isolation", "pci_passthrough"),
    *("live_migration", "ci", "portable", "scale_out", "docker_inside", "vms_inside", "desktop", "realtime"),
    *("privileged", "name", "image", "instances", "services", "start_within", "memory", "cpus", "disk"),
)


def _demands(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each common key, with the words of its declaration."""
    for name in reversed(_FLAGS):
        key = KEYS[name]
        option = f"--{name.replace('_', '-')}"
        help_text = key.meaning[:1].upper() + key.meaning[1:] + "."
        if key.kind == "flag":
            command = click.option(f"{option}/--no-{option[2:]}", name, default=None, help=help_text)(command)
        elif key.kind == "word":
            command = click.option(option, name, type=click.Choice(key.words), help=help_text)(command)
        else:
            command = click.option(option, name, metavar=key.kind.upper(), help=help_text)(command)
    return command


@click.command()
@click.option("--workload", "file", metavar="FILE", help="A workload in YAML or JSON; - is stdin.")
@_demands
@click.option(
    "--set", "more", metavar="KEY=VALUE", multiple=True, help="Any other key of a workload; a list by commas."
)
@click.option("--no-host", is_flag=True, help="Leave out what this host can and cannot do.")
@click.option("--explain", is_flag=True, help="Show every rule, those that did not fire too.")
@click.option("--schema", "only_schema", is_flag=True, help="Print the JSON Schema of a workload, and end.")
@formatted
def advise(
    file: str | None,
    more: tuple[str, ...],
    no_host: bool,
    explain: bool,
    only_schema: bool,
    form: str,
    **given: Any,
) -> None:
    """Tell which engine fits a workload on this host, and why.

    Demands come from a file or from options, which win. What no engine can do is refused with the reason.

    \b
    triune advise --workload nextcloud.yaml
    triune advise --packaging oci-image --ci --state data
    triune advise --os windows --desktop --format json
    """
    from triune.services.advice.advising import advise as weigh
    from triune.services.advice.advising import require_choice

    if only_schema:
        sys.stdout.write(structured(schema(), "yaml" if form == "yaml" else "json"))
        return
    data = _file(file) if file is not None else {}
    workload = parse(_merged(data, given, more))
    answer = weigh(workload, {} if no_host else host_facts())
    if form == "table":
        from triune.cli.advice import show

        if answer.choice is not None:
            show(answer, explain=explain)
    else:
        sys.stdout.write(structured(answer.as_dict(explain=explain), form))
    require_choice(answer)


def host_facts() -> Mapping[str, Any]:
    """What the daemon tells of this host; empty where none answers."""
    try:
        return Client().host()
    except TriuneError:
        return {}


def _merged(data: object, given: Mapping[str, Any], more: tuple[str, ...]) -> object:
    said = {name: int(value) if _is_count(name, value) else value for name, value in given.items() if value is not None}
    for text in more:
        name, equals, value = text.partition("=")
        if not equals:
            raise Invalid("bad_pair", f"{text!r} is no KEY=VALUE", hint="Write it like --set devices=/dev/ttyUSB0")
        said[name] = _word(name, value)
    return {**data, **said} if isinstance(data, dict) else data


def _is_count(name: str, value: object) -> bool:
    return KEYS[name].kind == "count" and isinstance(value, str) and value.isascii() and value.isdigit()


def _word(name: str, value: str) -> Any:
    key = KEYS.get(name)
    if key is not None and key.kind in ("texts", "words"):
        return [item for item in value.split(",") if item]
    if key is not None and key.kind == "flag" and value in ("true", "false"):
        return value == "true"
    return int(value) if key is not None and _is_count(name, value) else value


def _file(name: str) -> object:
    """A workload file's contents. Raises Invalid."""
    import yaml

    try:
        raw = sys.stdin.buffer.read(_LARGEST + 1) if name == "-" else _read(Path(name))
        if len(raw) > _LARGEST:
            raise Invalid("bad_workload", f"{name} is larger than 1 MiB", hint="Is it the right file?")
        return yaml.safe_load(raw.decode()) or {}
    except OSError as error:
        raise Invalid("bad_workload", f"can't read {name}: {error.strerror}", hint="Name a readable file.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise Invalid("bad_workload", f"{name}{line} is no YAML", hint="See its keys: triune advise --schema") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST + 1)


def described(workload: Workload) -> str:
    """The demands in a line."""
    said = workload.demands()
    return ", ".join(f"{name}: {value}" for name, value in said.items() if name not in ("name", "description"))
