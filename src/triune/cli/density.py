"""`density`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from triune.cli.options import Duration, formatted

if TYPE_CHECKING:
    from collections.abc import Callable

    from triune.cli.fitting import Plan

_IMAGE = "debian/12"
_PLANS = (
    click.option("--memory", metavar="SIZE", help="Memory of the host; this one's if not said."),
    click.option("--cpus", metavar="N", help="CPUs of the host; this one's if not said."),
    click.option("--disk", metavar="SIZE", help="Disk for instances; what is free here if not said."),
    click.option("--iops", type=click.FloatRange(1), metavar="N", help="Requests a second that its disks take."),
    click.option("--reserve", metavar="SIZE", help="Memory kept for the host; 5 %, 512 MiB at least, if not said."),
    click.option("--mix", metavar="ENGINE=COUNT,...", help="Whether these fit together, and how many times."),
    click.option("--workload", metavar="FILE", help="What runs in each: a workload, as advise takes it."),
    click.option("--memory-overcommit", type=click.FloatRange(0.1, 100), default=1.0, metavar="FACTOR",
        help="Plan with so much of the memory that is there; the risk is told."),
    click.option("--cpu-overcommit", type=click.FloatRange(0.1, 1000), default=1.0, metavar="FACTOR",
        help="Plan with so much of the CPUs that are there; the risk is told."),
    click.option("--busy", type=click.FloatRange(0, 1), default=0.2, show_default=True, metavar="SHARE",
        help="For the risk: the share of time that an instance uses all it may."),
    click.option("--plot", type=click.Path(path_type=Path), metavar="FILE",
        help="Write the frontier of what fits together as a picture (.svg, .png, .pdf)."),
)  # fmt: skip
_TRIALS = (
    click.option("--measure", is_flag=True, help="First launch a few idle instances of each engine, and measure them."),
    click.option("--measure-count", type=click.IntRange(2, 50), default=3, show_default=True, metavar="N",
        help="So many of each."),
    click.option("--engine", "engines", multiple=True, metavar="ENGINE",
        help="Measure and fill with this engine only; may be repeated."),
    click.option("--fill", is_flag=True, help="Prove it: start idle instances up to a bound, compare, remove them."),
    click.option("--fill-most", type=click.IntRange(1, 10_000), default=10, show_default=True, metavar="N",
        help="Start so many at most."),
    click.option("--fill-time", type=Duration(), default="2m", show_default=True, metavar="TIME",
        help="Start none after so long."),
    click.option("--fill-memory", metavar="SIZE", default="1GiB", show_default=True,
        help="Start none when they take so much; a tenth of the host's memory always stays free."),
    click.option("--image", default=_IMAGE, show_default=True, help="What to launch for --measure and --fill."),
)  # fmt: skip
_FLEETS = (
    click.option("--fleet", nargs=2, metavar="HOSTS INSTANCES",
        help="Place the instances of one file on the hosts of another; CSV or YAML, - is stdin."),
    click.option("--effort", type=click.FloatRange(0, 3600), default=10.0, metavar="SECONDS", show_default=True,
        help="With --fleet: work so long on what is only better."),
    click.option("--extra", multiple=True, metavar="ENGINE=SIZE",
        help="With --fleet: memory that an engine costs on top of what each of its instances asks."),
)  # fmt: skip
_TRIAL_KEYS = ("measure", "measure_count", "engines", "fill", "fill_most", "fill_time", "fill_memory", "image", "plot")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed((*_PLANS, *_TRIALS, *_FLEETS)):
        command = option(command)
    return command


@click.command()
@_options
@formatted
@click.pass_context
def density(
    ctx: click.Context,
    /,
    fleet: tuple[str, str] | None,
    effort: float,
    extra: tuple[str, ...],
    form: str,
    **asked: Any,
) -> None:
    """Tell how many instances fit, and what stops them.

    Memory is what an instance really takes: measured here by --measure (kept for later), else published. With --fleet:
    where the instances of a fleet go. The engine of each is chosen by the rules of `triune advise` from the keys of a
    workload in its row, unless it names one; the answer says how far it is from the fewest hosts.

    \b
    triune density --memory 64GiB --cpus 16
    triune density --mix kvm=2,lxc=20,docker=50 --plot frontier.svg
    triune density --workload web.yaml --cpu-overcommit 4
    sudo triune density --measure --fill
    triune density --fleet hosts.csv instances.csv --format json > placement.json
    """
    from triune.cli.fleet import show_fleet

    if fleet is None:
        trial = {key: asked.pop(key) for key in _TRIAL_KEYS}
        _one_host(asked, form, **trial)
        return
    given = [name for name in asked if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"--fleet goes without --{given[0].replace('_', '-').replace('engines', 'engine')}")
    show_fleet(*fleet, effort=effort, extra=extra, form=form)


def _one_host(asked: dict[str, Any], form: str, **trial: Any) -> None:
    from triune.cli import fitting, trying
    from triune.sdk import Client

    wanted = fitting.Asked(**asked)
    host, named = None, trial.pop("engines")
    if trial["measure"] or trial["fill"]:
        host = Client().host()
        engines = _engines(named, trying.available(host))
        fitting.plan(wanted, host)  # what is wrong with it is told before anything starts
    if trial["measure"] and host is not None:
        trying.measure(host, trial["image"], trial["measure_count"], engines)
    found = fitting.plan(wanted, host)
    data = fitting.answer(found)
    if trial["fill"] and host is not None:
        data = {**data, "fill": _filled(found, engines, **trial)}
    if trial["plot"] is not None:
        _plot(found, trial["plot"])
    if form == "table":
        fitting.show(found, data)
        if data["fill"]:
            fitting.show_fill(data["fill"])
    else:
        fitting.emit(data, form)
    fitting.require_mix(data)


def _engines(named: tuple[str, ...], available: list[str]) -> list[str]:
    from triune.domain.errors import Unsupported

    for engine in named:
        if engine not in available:
            raise Unsupported("engine_unusable", f"{engine} can't run instances here", hint="See why: triune doctor")
    return list(dict.fromkeys(named)) or available


def _filled(found: Plan, engines: list[str], **trial: Any) -> dict[str, Any]:
    from triune.cli import fitting, trying
    from triune.domain.units import parse_size
    from triune.services.placement.trial import Bounds

    bounds = Bounds(most=trial["fill_most"], seconds=trial["fill_time"], memory=parse_size(trial["fill_memory"]))
    mix = found.mix or dict.fromkeys(engines, 1)
    if found.mix:
        _engines(tuple(found.mix), trying.available(found.host))
    order = trying.order_of(mix, bounds.most)
    count, memory = trying.predicted(found.known, order, bounds)
    done = trying.fill(found.host, trial["image"], order, bounds)
    return fitting.compared(found, order, bounds, done, count, memory)


def _plot(found: Plan, path: Path) -> None:
    from triune.domain.units import format_size
    from triune.services.placement.plot import plot

    origins = sorted({figure.origin for figure in found.known.engines.values()})
    have = f"{format_size(found.budget.memory)}, {found.budget.cpus:g} CPUs"
    title = f"What fits together: {have} ({', '.join(origins)} figures)"
    engines = [engine for engine in found.known.engines if engine not in found.blocked]
    plot(path, found.lines, engines, found.mix, title)
