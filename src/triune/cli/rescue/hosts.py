"""`rescue ls esxi://…`: what an ESXi host has, and the folders of its datastores."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from triune.cli.rescue.sources import moment
from triune.cli.tables import Column, emit, structured
from triune.domain.units import format_size
from triune.services.rescue.esxi.address import Address, Place, is_address, parse_address

if TYPE_CHECKING:
    from triune.services.rescue.esxi.access import Access
    from triune.services.rescue.esxi.inventory import Entry

_STORES = (
    Column("DATASTORE", lambda row: row["name"]),
    Column("TYPE", lambda row: row["kind"], keep=5),
    Column("SIZE", lambda row: format_size(row["size"]), right=True),
    Column("FREE", lambda row: format_size(row["free"]), right=True, keep=4),
    Column("STATE", lambda row: "readable" if row["accessible"] else "lost", keep=6),
    Column("DEVICES", lambda row: ", ".join(row["devices"]) or "-", keep=7),
)
_MACHINES = (
    Column("MACHINE", lambda row: row["name"] or "-"),
    Column("STATE", lambda row: row["state"], keep=5),
    Column("GUEST", lambda row: row["guest"] or "-", keep=4),
    Column("VMX", lambda row: row["vmx"] or "-", keep=8),
)
_DEVICES = (
    Column("DEVICE", lambda row: row["name"]),
    Column("SIZE", lambda row: format_size(row["size"]) if row["size"] else "-", right=True),
    Column("MODEL", lambda row: row["model"] or "-", keep=5),
)
_FILES = (
    Column("SIZE", lambda row: "-" if row["kind"] == "folder" else format_size(row["size"]), right=True),
    Column("MODIFIED", lambda row: moment(row["modified"]), keep=5),
    Column("PATH", lambda row: row["path"] + ("/" if row["kind"] == "folder" else "")),
)


def shown(text: str, access: Access, form: str) -> bool:
    """Print the list of a host, its devices, or a folder of a datastore; False where the source is none of these."""
    if not is_address(text):
        return False
    address = parse_address(text)
    if address.place is Place.DEVICE:
        return False
    from triune.services.rescue.esxi.opening import list_devices, list_folder  # takes 0.25 s, most of it asyncssh

    if address.place is Place.HOST:
        _show_host(address, access, form)
    elif address.place is Place.DEVICES:
        emit(_rows(list_devices(address, access)), _DEVICES, form=form, empty="No devices.")
    else:
        entries = list_folder(address, access)
        if entries is None:
            return False
        emit([_file(address, entry) for entry in entries], _FILES, form=form, empty="No files.")
    return True


def _show_host(address: Address, access: Access, form: str) -> None:
    """Three tables; as JSON or YAML one mapping, as CSV one list with a column that tells the kind."""
    from triune.services.rescue.esxi.opening import list_host

    found = list_host(address, access)
    parts: dict[str, tuple[Sequence[Mapping[str, Any]], Sequence[Column]]] = {
        "datastores": (_rows(found.datastores), _STORES),
        "machines": (_rows(found.machines), _MACHINES),
        "devices": (_rows(found.devices), _DEVICES),
    }
    if form == "csv":
        flat = [{"what": what, **row} for what, (each, _) in parts.items() for row in each]
        sys.stdout.write(structured(flat, form))
    elif form != "table":
        sys.stdout.write(structured({what: each for what, (each, _) in parts.items()}, form))
    else:
        shown = [(rows, columns) for rows, columns in parts.values() if rows]
        for number, (rows, columns) in enumerate(shown):
            sys.stdout.write("\n" if number else "")
            emit(rows, columns)


def _rows(found: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()} for row in found
    ]


def _file(address: Address, entry: Entry) -> dict[str, Any]:
    """As other lists of files have it; a host vouches for what it lists."""
    return {
        "path": f"{address.file}/{entry.name}" if address.file else entry.name,
        "volume": address.datastore,
        "kind": "folder" if entry.folder else "file",
        "size": entry.size,
        "status": "intact",
        "modified": entry.modified,
    }
