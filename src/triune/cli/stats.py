"""`triune stats`: what instances use, once or live."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from triune.cli.options import complete_instances, formatted
from triune.cli.screen import Screen
from triune.cli.tables import Column, emit, table
from triune.cli.text import colours, paint, width
from triune.domain.units import format_size
from triune.sdk import Client

_PAUSE = 1.0
_KEYS = (
    *("name", "engine", "cpu_percent", "memory_bytes", "memory_limit_bytes", "disk_read_bytes", "disk_write_bytes"),
    *("net_rx_bytes", "net_tx_bytes", "pids"),
)
_RATES = ("disk_read_bytes", "disk_write_bytes", "net_rx_bytes", "net_tx_bytes")
_HIGH, _VERY_HIGH = 75, 90  # percent of the memory's limit

Row = Mapping[str, Any]
Order = tuple[float, str, str]


def _by(*keys: str) -> Callable[[Row], Order]:
    return lambda row: (-sum(row[key] or 0 for key in keys), row["name"], row["engine"])


_SORTS: Mapping[str, Callable[[Row], Order]] = {
    "name": _by(),
    "cpu": _by("cpu_percent"),
    "memory": _by("memory_bytes"),
    "disk": _by("disk_read_bytes_s", "disk_write_bytes_s"),
    "net": _by("net_rx_bytes_s", "net_tx_bytes_s"),
    "pids": _by("pids"),
}


@click.command()
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=complete_instances)
@click.option("--once", is_flag=True, help="Print it once (also where this is no terminal, and for --format).")
@click.option("--sort", type=click.Choice(list(_SORTS)), default="name", help="The greatest first.", show_default=True)
@formatted
def stats(names: tuple[str, ...], once: bool, sort: str, form: str) -> None:
    """Show what running instances use: all of them, or the named ones; live on a terminal.

    CPU is percent of one host CPU over the last second. MEMORY is what could not be freed at once: page cache is left
    out, and for a virtual machine it is what its guest uses. Live, q ends it and s sorts by the next column.
    """
    samples = _Samples(names)
    if once or form != "table" or not Screen.possible():
        time.sleep(_PAUSE)
        rows = sorted(samples.rows(), key=_SORTS[sort])
        told = [{key: row[key] for key in _KEYS} for row in rows] if form != "table" else rows
        emit(told, _COLUMNS, form=form, empty="No instance is running.")
        return
    _live(samples, sort)


class _Samples:
    """Takes samples of the named instances (none named: of all) and tells what happened between two of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._client = Client()
        self._names = frozenset(names)
        self._before, self._taken = self._take()
        for name in sorted(self._names - self._before.keys()):
            self._client.instances.stats(name)  # raises what is wrong with it

    def _take(self) -> tuple[dict[str, Row], float]:
        sample = self._client.instances.sample()
        found: dict[str, Row] = {}
        for item in sample["items"]:
            if not self._names or item["name"] in self._names:
                found[item["name"]] = dict(item)
        return found, datetime.fromisoformat(sample["time"]).timestamp()

    def rows(self) -> list[Row]:
        """A new sample, each row with `cpu_percent` and the rates (`…_s`, bytes a second) since the last one."""
        before, taken = self._before, self._taken
        self._before, self._taken = self._take()
        seconds = max(0.05, self._taken - taken)
        return [_rated(row, before.get(name), seconds) for name, row in self._before.items()]


def _rated(row: Row, before: Row | None, seconds: float) -> Row:
    """What has just started, or started again and counts anew, has no rates yet."""

    def rate(key: str) -> float:
        return max(0.0, row[key] - before[key]) / seconds if before is not None else 0.0

    rates = {f"{key}_s": rate(key) for key in _RATES}
    return {**row, **rates, "cpu_percent": round(rate("cpu_time_s") * 100, 1)}


def _live(samples: _Samples, sort: str) -> None:
    screen = Screen()
    lines: list[str] = []
    with screen.opened():
        screen.draw(_lines([], sort))
        rows: list[Row] = []
        due = time.monotonic() + _PAUSE
        while True:
            key = screen.wait(due - time.monotonic())
            if key in ("q", "Q", "\x03", "\x04", "\x1b"):
                break
            if key == "s":
                known = list(_SORTS)
                sort = known[(known.index(sort) + 1) % len(known)]
            if time.monotonic() >= due:
                rows, due = samples.rows(), time.monotonic() + _PAUSE
            lines = _lines(rows, sort)
            screen.draw(lines)
    # What was last seen stays to be read.
    sys.stdout.write("".join(f"{line}\n" for line in lines[2:]))


def _lines(rows: list[Row], sort: str) -> list[str]:
    colour = colours(sys.stdout)
    limit = width(sys.stdout) or 80
    head = f"{len(rows)} running, by {sort}" if rows else "measuring …"
    keys = "q ends, s sorts"
    room = limit - len(head) - len(keys)
    top = f"{head}{' ' * room}{paint(keys, 'dim', colour)}" if room > 1 else head[:limit]
    text = table(sorted(rows, key=_SORTS[sort]), _COLUMNS, limit=limit, colour=colour) if rows else ""
    return [top, "", *text.splitlines()]


def _percent(row: Row) -> float | None:
    limit = row["memory_limit_bytes"]
    return row["memory_bytes"] / limit * 100 if limit else None


def _share(row: Row) -> str:
    percent = _percent(row)
    return "-" if percent is None else f"{percent:.0f} %"


def _worry(row: Row) -> str:
    percent = _percent(row) or 0
    return "red" if percent >= _VERY_HIGH else "yellow" if percent >= _HIGH else ""


def _size(key: str) -> Callable[[Row], str]:
    return lambda row: format_size(int(row[key]))


_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("ENGINE", lambda row: row["engine"], keep=5),
    Column("CPU", lambda row: f"{row['cpu_percent']:.1f} %", right=True),
    Column("MEMORY", _size("memory_bytes"), right=True),
    Column("LIMIT", lambda row: format_size(row["memory_limit_bytes"]), right=True, keep=4),
    Column("MEM", _share, right=True, keep=8, colour=_worry),
    Column("READ/S", _size("disk_read_bytes_s"), right=True, keep=7),
    Column("WRITE/S", _size("disk_write_bytes_s"), right=True, keep=7),
    Column("IN/S", _size("net_rx_bytes_s"), right=True, keep=7),
    Column("OUT/S", _size("net_tx_bytes_s"), right=True, keep=7),
    Column("READ", _size("disk_read_bytes"), right=True, keep=3),
    Column("WRITTEN", _size("disk_write_bytes"), right=True, keep=3),
    Column("IN", _size("net_rx_bytes"), right=True, keep=2),
    Column("OUT", _size("net_tx_bytes"), right=True, keep=2),
    Column("PIDS", lambda row: "-" if row["pids"] is None else row["pids"], right=True, keep=6),
)
