"""`advise`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triune.cli import looking
from triune.cli.options import complete_instances, formatted
from triune.cli.tables import structured
from triune.domain.errors import Invalid, TriuneError
from triune.domain.workload import KEYS, parse, schema
from triune.sdk import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_WAYS = {
    "compose": "Look at a Compose file: a part for each service.",
    "dockerfile": "Look at a Dockerfile.",
    "vmx": "Look at a machine of VMware's.",
    "instance": "Look at an instance of this host.",
}
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


def _looks(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each thing that a workload can be read off."""
    for way in reversed(_WAYS):
        complete = complete_instances if way == "instance" else None
        metavar = "NAME" if way == "instance" else "FILE"
        command = click.option(
            f"--from-{way}", f"from_{way}", metavar=metavar, help=_WAYS[way], shell_complete=complete
        )(command)
    return click.option(
        "--from-host", is_flag=True, help="Look at every instance of this host, and at what serves on the host itself."
    )(command)


@click.command()
@click.option("--workload", "file", metavar="FILE", help="A workload in YAML or JSON; - is stdin.")
@_looks
@click.option("--ask", is_flag=True, help="Ask in the terminal; also when nothing is said at all.")
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
    ask: bool,
    no_host: bool,
    explain: bool,
    only_schema: bool,
    form: str,
    **given: Any,
) -> None:
    """Tell which engine fits a workload on this host, and why.

    Demands come from a file, from looking at something that exists, or from options, which win over both. Without any,
    the terminal asks. What no engine can do is refused with the reason.

    \b
    triune advise --workload nextcloud.yaml
    triune advise --packaging oci-image --ci --state data
    triune advise --from-compose compose.yaml
    triune advise --os windows --desktop --format json
    """
    from triune.services.advice.advising import advise as weigh
    from triune.services.advice.advising import require_choice

    if only_schema:
        sys.stdout.write(structured(schema(), "yaml" if form == "yaml" else "json"))
        return
    data, seen = _looked(file, given)
    if ask or (not data and not more and not any(given.values()) and sys.stdin.isatty()):
        given = {**looking.ask(), **{name: value for name, value in given.items() if value is not None}}
    workload = parse(_merged(data, given, more))
    answer = weigh(workload, {} if no_host else host_facts())
    answer = replace(answer, notes=(*answer.notes, *seen))
    if form == "table":
        from triune.cli.advice import show

        if answer.choice is not None:
            show(answer, explain=explain)
    else:
        sys.stdout.write(structured(answer.as_dict(explain=explain), form))
    require_choice(answer)


def _looked(file: str | None, given: dict[str, Any]) -> tuple[object, tuple[str, ...]]:
    """What a file or a thing demands, and notes; takes the ways to look out of `given`."""
    asked = [(way, what) for way in _WAYS if (what := given.pop(f"from_{way}")) is not None]
    asked += [("host", "")] if given.pop("from_host") else []
    if len(asked) + (file is not None) > 1:
        raise click.UsageError("give one of --workload and --from-…")
    if asked:
        seen = looking.look(*asked[0])
        return dict(seen.data), seen.notes
    return (looking.load(file) if file is not None else {}), ()


def host_facts() -> Mapping[str, Any]:
    """What the daemon tells of this host, and what was measured on it; empty where none answers."""
    from triune.services.benchmarks.measured import measured
    from triune.services.benchmarks.results import FOLDER

    try:
        host = Client().host()
    except TriuneError:
        return {}
    return {**host, "measured": measured(Path(str(host["data"])) / FOLDER, str(host["hostname"]))}


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
