"""`density --fleet`: the placement of a fleet, as a summary for people and as rows for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from triune.cli.looking import read
from triune.cli.tables import Column, structured, table
from triune.cli.text import clean, colours, paint, width
from triune.domain.errors import Failed, Invalid
from triune.domain.units import format_duration, format_size, parse_size

if TYPE_CHECKING:
    from triune.services.placement.placing import Placement

_LARGEST = 1 << 30
_TOLD = 10
_RESOURCES = (
    Column("RESOURCE", lambda row: row["resource"]),
    Column("PLACED", lambda row: row["placed"], right=True),
    Column("OF USED HOSTS", lambda row: row["have"], right=True),
    Column("SHARE", lambda row: row["share"], right=True),
)
_UNPLACED = (
    Column("INSTANCE", lambda row: row["instance"]),
    Column("WHY IT HAS NO HOST", lambda row: row["reason"]),
)


def show_fleet(hosts: str, instances: str, *, effort: float, extra: Sequence[str], form: str) -> None:
    """Place and print. Raises Invalid, and Failed("not_all_placed") after all is printed."""
    from triune.services.placement.fleet import read_hosts, read_instances
    from triune.services.placement.placing import place

    if hosts == instances == "-":
        raise Invalid("bad_row", "hosts and instances can't both come from stdin", hint="Name a file for one of them.")
    where = read_hosts(hosts, read(hosts, code="bad_file", most=_LARGEST))
    rows = read_instances(instances, read(instances, code="bad_file", most=_LARGEST))
    found = place(where, rows, _extra(extra), effort)
    summary = found.summary()
    if form == "table":
        _print(summary)
    elif form == "csv":
        _csv(found)
    elif form == "json":
        _json(summary, found)
    else:
        rows_of = [dict(zip(("instance", "engine", "host"), row, strict=True)) for row in found.rows()]
        sys.stdout.write(structured({**summary, "placements": rows_of}, form))
    missing = summary["unplaced"]
    if missing:
        raise Failed(
            "not_all_placed",
            f"{len(missing):,} of {summary['instances']:,} instances {'has' if len(missing) == 1 else 'have'} no host, "
            f"{missing[0]['instance']}{' for one' if len(missing) > 1 else ''}: {missing[0]['reason']}",
            hint="See the reason of each in --format json; the others are placed.",
        )


def _extra(pairs: Sequence[str]) -> Mapping[str, int]:
    found = {}
    for pair in pairs:
        engine, equals, size = pair.partition("=")
        if not equals:
            raise Invalid(
                "bad_pair", f"{pair!r} is no ENGINE=SIZE", hint="Write the engine, =, and a size like 150MiB."
            )
        found[engine] = parse_size(size)
    return found


def _csv(found: Placement) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("instance", "engine", "host"))
    writer.writerows((clean(name), engine, clean(host)) for name, engine, host in found.rows())


def _json(summary: Mapping[str, Any], found: Placement) -> None:
    """As `structured` would, but one placement a line: there may be a million."""
    head = json.dumps(summary, indent=2)
    sys.stdout.write(head[: head.rindex("\n}")] + ',\n  "placements": [')
    before = "\n    "
    names = [json.dumps(name) for name in found.hosts.names]
    engines = [json.dumps(name) for name in found.engines]
    for at, (host, engine) in enumerate(zip(found.host.tolist(), found.engine.tolist(), strict=True)):
        if host >= 0:
            name = json.dumps(found.instances[at])
            sys.stdout.write(f'{before}{{"instance": {name}, "engine": {engines[engine]}, "host": {names[host]}}}')
            before = ",\n    "
    sys.stdout.write("\n  ]\n}\n")


def _print(summary: Mapping[str, Any]) -> None:
    colour, limit = colours(sys.stdout), width(sys.stdout)
    used, bound = summary["hosts_used"], summary["lower_bound"]
    print(
        paint(
            f"{summary['placed']:,} of {summary['instances']:,} instances on {used:,} of {summary['hosts']:,} hosts",
            "bold",
            colour,
        )
    )
    if used == bound:
        print(f"No placement needs fewer hosts: {bound:,} is the lower bound.")
    else:
        print(
            f"No placement needs fewer than {bound:,} hosts: this one is at most {summary['gap']:.1%} above the best."
        )
    engines = ", ".join(f"{count:,} {engine}" for engine, count in summary["engines"].items() if count)
    print(f"Engines: {engines or 'none'}. It took {format_duration(summary['seconds'])}.\n")
    rows = [_resource(name, facts) for name, facts in summary["resources"].items()]
    sys.stdout.write(table(rows, _RESOURCES, limit=limit, colour=colour))
    if summary["unplaced"]:
        print()
        sys.stdout.write(table(summary["unplaced"][:_TOLD], _UNPLACED, limit=limit, colour=colour))
        if len(summary["unplaced"]) > _TOLD:
            print(f"… and {len(summary['unplaced']) - _TOLD:,} more: --format json")


def _resource(name: str, facts: Mapping[str, Any]) -> dict[str, str]:
    def said(value: float | None) -> str:
        if value is None:
            return "no limit"
        return format_size(int(value)) if name in ("memory", "disk") else f"{value:,.10g}"

    share = "-" if facts["share"] is None else f"{facts['share']:.1%}"
    return {"resource": name, "placed": said(facts["placed"]), "have": said(facts["of_used_hosts"]), "share": share}
