"""What `triune import` and `triune rescue import` share: options, the plan as a table, the import, its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from triune.cli.options import Duration, complete_engines, complete_networks, formatted, silenceable
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.errors import Invalid
from triune.domain.machine import CARD_MODELS, DISK_BUSES, Described, Firmware
from triune.domain.units import format_size, parse_size
from triune.sdk import Client

if TYPE_CHECKING:
    from triune.services.machines.origin import Origin
    from triune.services.machines.planning import Wishes

F = TypeVar("F", bound=Callable[..., Any])
_PATIENCE = 180.0

_OPTIONS = (
    click.option("--name", required=True, metavar="NAME", help="Its name here."),
    click.option("--bus", type=click.Choice(DISK_BUSES), help="Of its disks (default: as it had, or virtio)."),
    click.option("--inject-drivers", is_flag=True, help="Put drivers for virtio into the copy, by virt-v2v."),
    click.option("--card", type=click.Choice(CARD_MODELS), help="Kind of its network cards (default: the same way)."),
    click.option("--network", metavar="NET", help="Network to join, or 'none'.", shell_complete=complete_networks),
    click.option("--map", "mapped", metavar="NAME=NET", multiple=True, help="Network for cards that were in NAME."),
    click.option("--new-macs", is_flag=True, help="New MAC addresses instead of those it had."),
    click.option("--memory", metavar="SIZE", help="Memory, like 2GiB (default: as it had)."),
    click.option("--cpus", type=click.IntRange(1, 4096), metavar="N", help="CPUs (default: as it had)."),
    click.option("--firmware", type=click.Choice([one.value for one in Firmware]), help="It boots with."),
    click.option("--secure-boot/--no-secure-boot", default=None, help="UEFI starts only what is signed."),
    click.option("--tpm/--no-tpm", default=None, help="A TPM, an empty one."),
    click.option("--vnc/--no-vnc", "display", default=None, help="A display by VNC on 127.0.0.1."),
    click.option("--skip", metavar="SLOT", multiple=True, help="Leave out a disk or a card, like scsi0:1."),
    click.option("--damaged", is_flag=True, help="Take zeros for what is missing of its disks."),
    click.option("--no-verify", is_flag=True, help="Don't read all once more to compare."),
    click.option("--engine", default="", metavar="ENGINE", help="Default: the first that can.",
                 shell_complete=complete_engines),
    click.option("--no-start", is_flag=True, help="Make it only."),
    click.option("--timeout", type=Duration(), default=_PATIENCE, metavar="TIME", help="For coming up (default: 3m)."),
    click.option("--register-esxi", metavar="DIR", help="Write a clean VMX and the disks there for ESXi instead."),
    click.option("--plan", "only_plan", is_flag=True, help="Show what would be done, and do nothing."),
    click.option("--report", metavar="FILE", help="Write plan, report and result there as JSON."),
)  # fmt: skip


def options(command: F) -> F:
    """The options of both commands."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return formatted(silenceable(command))


def wishes(given: Mapping[str, Any]) -> Wishes:
    """What the options ask for. Raises Invalid."""
    from triune.services.machines.planning import Wishes

    return Wishes(
        bus=given["bus"],
        card=given["card"],
        memory=None if given["memory"] is None else parse_size(given["memory"]),
        cpus=given["cpus"],
        firmware=None if given["firmware"] is None else Firmware(given["firmware"]),
        secure_boot=given["secure_boot"],
        tpm=given["tpm"],
        display=given["display"],
        network=_network(given["network"] or ""),
        networks=dict(_mapped(text) for text in given["mapped"]),
        new_macs=given["new_macs"],
        skip=frozenset(given["skip"]),
        inject=given["inject_drivers"],
    )


def _network(text: str) -> str | None:
    return None if text == "none" else text


def _mapped(text: str) -> tuple[str, str | None]:
    was, equals, now = text.rpartition("=")
    if not equals or not was:
        raise Invalid("bad_map", f"{text!r} is no pair of networks", hint="Write it like --map 'VM Network=triune0'.")
    return was, _network(now)


def run(origin: Origin, given: Mapping[str, Any], form: str, quiet: bool) -> int:
    """Plan it, and unless only that was asked for, do it. Returns the exit code."""
    from triune.services.machines import drivers, planning
    from triune.services.machines.origin import require_whole

    wished, virtio = wishes(given), drivers.virtio(origin)
    described = planning.plan(origin.described, wished, virtio=virtio)
    inject = planning.lacks_drivers(wished, virtio=virtio)
    if wished.inject and given["register_esxi"]:
        raise Invalid("bad_option", "no drivers are put into what goes to ESXi", hint="Leave out --inject-drivers.")
    facts = report(origin, described)
    if given["only_plan"]:
        _write_report(given["report"], facts)
        _show(facts, described, form)
        return 0
    if not given["damaged"]:
        require_whole(origin)
    if given["register_esxi"]:
        from triune.services.machines import esxi

        folder = Path(given["register_esxi"])
        written = esxi.register(origin, given["name"], folder, zeros=given["damaged"])
        facts["written"] = written
        _write_report(given["report"], facts)
        _told(facts, form, quiet, [f"written: {path}" for path in written])
        return 0
    result = _import(origin, described, {**given, "inject_drivers": inject}, quiet)
    facts["result"] = result
    _write_report(given["report"], facts)
    _told(facts, form, quiet, _sentences(given["name"], result, facts))
    return 1 if result["up"] is False else 0


def _import(origin: Origin, described: Described, given: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    from triune.services.machines.origin import direct
    from triune.services.machines.serving import serve

    client = Client()
    machine = asdict(described.machine)
    del machine["name"]
    with serve({disk.slot: origin.disks[disk.slot] for disk in described.machine.disks},
               zeros=given["damaged"]) as exports:  # fmt: skip
        for disk in machine["disks"]:
            export = exports[disk["slot"]]
            disk |= {"socket": str(export.socket), "export": export.name, **direct(origin.disks[disk["slot"]])}
        body = {
            **machine,
            "engine": given["engine"],
            "source": origin.name,
            "inject_drivers": given["inject_drivers"],
            "verify": not given["no_verify"],
            "start": not given["no_start"],
            "timeout": given["timeout"],
        }
        operation = client.machines.import_machine(given["name"], body)
        done: dict[str, Any] = finish(client, operation, given["name"], quiet=quiet)
    return done


def report(origin: Origin, described: Described) -> dict[str, Any]:
    """The plan, and every line that is not carried over, for JSON."""
    return {
        "source": origin.name,
        "machine": asdict(described.machine),
        "not_carried_over": [asdict(one) for one in described.left_out],
        "notes": [*described.notes, *origin.notes],
    }


def _write_report(path: str | None, facts: Mapping[str, Any]) -> None:
    if path is None:
        return
    try:
        Path(path).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise Invalid("bad_path", f"can't write {path}: {error.strerror}", hint="Name another file.") from None


def _sentences(name: str, result: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    lines = []
    for disk in result["disks"]:
        equal = f", content equal ({disk['algorithm']} {disk['hash'][:16]}…)" if disk.get("equal") else ""
        lines.append(f"{disk['slot']}: {format_size(disk['stored'])} stored in {disk['seconds']:.1f} s{equal}")
    if drivers := result["drivers"]:
        lines.append(f"{drivers['tool']} put drivers for virtio into the copy in {drivers['seconds']:.1f} s")
        lines += [f"{drivers['tool']}: {warning}" for warning in drivers["warnings"]]
    lines += [f"note: {note}" for note in [*facts["notes"], *result["notes"]]]
    left = len(facts["not_carried_over"])
    if left:
        lines.append(f"{left} lines of {facts['source']} were not carried over: see --plan, or --report FILE")
    if result["accelerated"] is False and result["up"] is not None:
        lines.append("its CPU is emulated here (no KVM): it is slow")
    lines.append(f"{name} is imported" if result["up"] is None else result["sentence"])
    return lines


def _told(facts: Mapping[str, Any], form: str, quiet: bool, lines: list[str]) -> None:
    if form != "table":
        sys.stdout.write(structured(dict(facts), form))
    elif not quiet:
        for line in lines:
            print(clean(line))


def _show(facts: Mapping[str, Any], described: Described, form: str) -> None:
    if form != "table":
        sys.stdout.write(structured(dict(facts), form))
        return
    machine = described.machine
    sockets = machine.cpus // machine.cores
    secure = ", secure boot" if machine.secure_boot else ""
    rows = [
        ("Machine", f"{machine.name} ({machine.guest or 'unknown system'})"),
        ("Firmware", f"{machine.firmware.value}{secure}{', TPM' if machine.tpm else ''}"),
        ("CPUs", f"{machine.cpus} ({sockets} x {machine.cores} cores)"),
        ("Memory", format_size(machine.memory)),
        ("Display", "VNC on 127.0.0.1" if machine.display else "none"),
        ("Serial", str(max(1, machine.serials))),
        ("Clock", machine.clock),
    ]
    for label, value in rows:
        print(f"{label + ':':<10}{clean(value)}")
    print()
    emit([asdict(disk) for disk in machine.disks], _DISKS, empty="No disks.")
    if machine.cards:
        print()
        emit([asdict(card) for card in machine.cards], _CARDS)
    if facts["notes"]:
        print()
    for note in facts["notes"]:
        print(clean(f"note: {note}"))
    if facts["not_carried_over"]:
        print("\nNot carried over:")
        emit(facts["not_carried_over"], _LEFT)


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['bus']} ({row['controller']})" if row["controller"] else str(row["bus"])


_DISKS = (
    Column("DISK", lambda row: row["slot"]),
    Column("SIZE", lambda row: format_size(row["size"]), right=True),
    Column("BUS", _kind),
    Column("FILE", lambda row: row["file"]),
)
_CARDS = (
    Column("CARD", lambda row: row["slot"]),
    Column("MAC", lambda row: row["mac"] or "new"),
    Column("MODEL", lambda row: row["model"]),
    Column("NETWORK", lambda row: "-" if row["network"] is None else row["network"] or "default"),
)
_LEFT = (
    Column("LINE", lambda row: row["line"] or "-", right=True),
    Column("KEY", lambda row: row["key"]),
    Column("VALUE", lambda row: row["value"], keep=5),
    Column("WHY", lambda row: row["reason"]),
)
