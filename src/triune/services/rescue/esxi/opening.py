"""What an address of a host leads to."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from triune.domain.errors import Failed, Invalid, NotFound
from triune.services.rescue.esxi import readers, ssh
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.address import Address, Place, parse_address
from triune.services.rescue.esxi.buffered import RemoteSource
from triune.services.rescue.esxi.inventory import Device, Entry, Host, Inventory
from triune.services.rescue.esxi.line import Line, SshLine
from triune.services.rescue.esxi.looping import EventThread
from triune.services.rescue.esxi.volume import DatastoreVolume
from triune.services.rescue.esxi.web import WebLine


def open_address(address: Address, access: Access) -> RemoteSource:
    """A device or an intact file as a source. Raises Invalid for a host or a folder, and what opening raises."""
    if address.place is Place.DEVICE:
        return _buffered(SshLine(address, access), access)
    if address.place is Place.DATASTORE and address.file:
        return _buffered(WebLine(address, access), access)
    raise Invalid(
        "not_a_source",
        f"{address} names no file or device",
        hint=f"See what there is: triune rescue ls {address}",
    )


def open_text(text: str, access: Access) -> RemoteSource:
    """The same, of an address as it is written."""
    return open_address(parse_address(text), access)


def open_store(text: str, access: Access) -> DatastoreVolume | None:
    """The volume that a datastore's address is; None for any other address."""
    address = parse_address(text)
    if address.place is Place.DATASTORE and not address.file:
        return DatastoreVolume(address, access)
    return None


def parted(text: str) -> tuple[str, str] | None:
    """Datastore and path of a file's address; None for any other address."""
    address = parse_address(text)
    if address.place is not Place.DATASTORE or not address.file:
        return None
    return str(replace(address, path=(address.datastore,))), address.file


def list_host(address: Address, access: Access) -> Inventory:
    """Datastores, machines and devices of a host."""
    host = Host(address, access)
    try:
        return host.inventory()
    finally:
        host.close()


def list_folder(address: Address, access: Access) -> list[Entry] | None:
    """What lies in a folder of a datastore; None where the address names a file."""
    host = Host(address, access)
    try:
        return host.entries(address.datastore, address.file)
    except NotFound:
        if not address.file:
            raise
        folder, _, name = address.file.rpartition("/")
        if not any(entry.name == name for entry in host.entries(address.datastore, folder)):
            raise
        return None
    finally:
        host.close()


def list_devices(address: Address, access: Access) -> list[Device]:
    """The raw devices, partitions included, as they lie in /vmfs/devices/disks. Sizes are 0 where SFTP is refused."""
    thread = EventThread()
    password: str | None = None
    try:
        for _ in range(2):
            try:
                found = thread.run(_device_names(address, access, password))
                return [Device(name=name, size=size, model="") for name, size in found]
            except ssh.PasswordWanted:
                password = access.passwords.of(address.user, address.host)
            except readers.Dropped:
                break
        raise Failed("host_failed", f"{address.host} hung up", hint="Try again.")
    finally:
        thread.close()


async def _device_names(address: Address, access: Access, password: str | None) -> list[tuple[str, int]]:
    connection = await ssh.connect(address, access, password)
    try:
        return await asyncio.wait_for(readers.names(connection, address.remote), access.patience.reading)
    except TimeoutError:
        raise readers.Dropped from None
    finally:
        connection.abort()


def _buffered(line: Line, access: Access) -> RemoteSource:
    try:
        return RemoteSource(line, access)
    except BaseException:
        line.close()
        raise
