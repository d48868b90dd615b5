"""What a host has: datastores with the devices they lie on, virtual machines, devices. Asked through its API."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from triune.domain.errors import Denied, Failed, NotFound, Unreachable
from triune.services.rescue.esxi import tls
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.address import Address

_MOST = 100_000
_TASK_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Datastore:
    """`kind` is "VMFS 6.82", "NFS", …; sizes in bytes; `devices` as esxi:// addresses take them (`naa.…:1`)."""

    name: str
    kind: str
    size: int
    free: int
    accessible: bool
    uuid: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`vmx` is its file as `[datastore] path`; `state` as the host words it (`poweredOn`)."""

    name: str
    state: str
    guest: str
    vmx: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A disk of the host. Size in bytes."""

    name: str
    size: int
    model: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that an address can name on a host, in order of names."""

    datastores: tuple[Datastore, ...]
    machines: tuple[Machine, ...]
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of a datastore. Size in bytes, time in seconds since the epoch."""

    name: str
    folder: bool
    size: int
    modified: int


class Host:
    """A host's API. It logs in when it is first asked; `close` logs out."""

    def __init__(self, address: Address, access: Access) -> None:
        self._address, self._access = address, access
        self._service: Any = None

    def inventory(self) -> Inventory:
        """What the host has. Raises Denied, Unreachable and Failed."""
        with self._asked() as content:
            vim = _vim()
            stores = [_datastore(found) for found in _all(content, vim.Datastore)]
            machines = [_machine(found) for found in _all(content, vim.VirtualMachine)]
            devices = [device for host in _all(content, vim.HostSystem) for device in _devices(host)]
        return Inventory(
            tuple(sorted(stores, key=lambda found: found.name)),
            tuple(sorted(machines, key=lambda found: (found.name, found.vmx))),
            tuple(sorted(devices, key=lambda found: found.name)),
        )

    def datastore(self, name: str) -> Datastore:
        """One datastore. Raises NotFound, and what `inventory` raises."""
        with self._asked() as content:
            return _datastore(self._store(content, name))

    def entries(self, datastore: str, folder: str) -> list[Entry]:
        """What lies in a folder, sorted by name. Raises NotFound, and what `inventory` raises."""
        with self._asked() as content:
            return _listed(self._store(content, datastore), folder, self._address)

    def close(self) -> None:
        """Log out; once more does nothing."""
        service, self._service = self._service, None
        if service is not None:
            with contextlib.suppress(Exception):
                _connecting().Disconnect(service)

    def _store(self, content: Any, name: str) -> Any:
        stores = {str(store.name): store for store in _all(content, _vim().Datastore)}
        if name not in stores:
            known = ", ".join(sorted(stores)[:20]) or "none"
            raise NotFound("no_datastore", f"{self._address.host} has no datastore {name}", hint=f"It has: {known}.")
        return stores[name]

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        """The host's content, logged in; faults become errors, and the next question logs in anew."""
        vim, vmodl, host = _vim(), _vmodl(), self._address.host
        try:
            if self._service is None:
                self._service = self._login()
            yield self._service.RetrieveContent()
        except (vim.fault.InvalidLogin, vim.fault.NoPermission, vmodl.fault.SecurityError):
            self.close()
            raise Denied(
                "login_refused",
                f"{host} does not let {self._address.user} in",
                hint="Check user and password. Five wrong passwords lock an ESXi account.",
            ) from None
        except vmodl.MethodFault as fault:
            self.close()
            raise Failed("host_failed", f"{host}: {fault.msg or type(fault).__name__}", hint="See its log.") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            why = getattr(error, "strerror", None) or str(error)
            raise Unreachable("host_unreachable", f"{host} does not answer: {why}", hint="Try again.") from None

    def _login(self) -> Any:
        address, access = self._address, self._access
        context = tls.trusted(address, access)
        return _connecting().SmartConnect(
            host=address.host,
            port=address.service_port,
            user=address.user,
            pwd=access.passwords.of(address.user, address.host),
            sslContext=context,
            httpConnectionTimeout=access.patience.reading,
        )


def _vim() -> Any:
    """VMware's types, made at run time; imported when they are needed."""
    from pyVmomi import vim

    return vim


def _vmodl() -> Any:
    from pyVmomi import vmodl

    return vmodl


def _connecting() -> Any:
    from pyVim import connect

    return connect


def _all(content: Any, kind: Any) -> list[Any]:
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], recursive=True)
    try:
        return list(view.view)[:_MOST]
    finally:
        view.Destroy()


def _datastore(found: Any) -> Datastore:
    summary, volume = found.summary, getattr(found.info, "vmfs", None)
    version = getattr(volume, "version", "") or ""
    extents = getattr(volume, "extent", None) or []
    return Datastore(
        name=str(found.name),
        kind=f"{summary.type} {version}".strip(),
        size=int(summary.capacity or 0),
        free=int(summary.freeSpace or 0),
        accessible=bool(summary.accessible),
        uuid=str(getattr(volume, "uuid", "") or ""),
        devices=tuple(f"{extent.diskName}:{extent.partition}" for extent in extents),
    )


def _machine(found: Any) -> Machine:
    """One that is just being made or lost its file has no configuration."""
    config = found.summary.config
    return Machine(
        name=str(config.name or "") if config else "",
        state=str(found.runtime.powerState),
        guest=str(config.guestId or "") if config else "",
        vmx=str(config.vmPathName or "") if config else "",
    )


def _devices(host: Any) -> Iterator[Device]:
    storage = host.config.storageDevice if host.config else None
    for found in (storage.scsiLun or []) if storage else []:
        capacity = getattr(found, "capacity", None)
        if capacity is not None:
            model = f"{(found.vendor or '').strip()} {(found.model or '').strip()}".strip()
            yield Device(name=str(found.canonicalName), size=int(capacity.block) * int(capacity.blockSize), model=model)


def _listed(store: Any, folder: str, address: Address) -> list[Entry]:
    kinds = _vim().host.DatastoreBrowser
    details = kinds.FileInfo.Details(fileSize=True, modification=True, fileType=True, fileOwner=False)
    spec = kinds.SearchSpec(details=details, matchPattern=["*"], query=[kinds.FolderQuery(), kinds.Query()])
    task = store.browser.SearchDatastore_Task(f"[{store.name}] {folder}", spec)
    end = time.monotonic() + _TASK_SECONDS
    while task.info.state not in ("success", "error"):
        if time.monotonic() > end:
            raise Unreachable("host_unreachable", f"{address.host} does not finish listing", hint="Try again.")
        time.sleep(0.05)
    if task.info.state == "error":
        raise NotFound(
            "no_such_file",
            f"{store.name} has no folder {folder or '/'}",
            hint=f"Look above it: triune rescue ls {Address(address.host, address.user, address.port, (store.name,))}",
        )
    found = [_entry(entry) for entry in (task.info.result.file or [])[:_MOST]]
    return sorted(found, key=lambda entry: entry.name)


def _entry(found: Any) -> Entry:
    return Entry(
        name=str(found.path),
        folder=isinstance(found, _vim().host.DatastoreBrowser.FolderInfo),
        size=int(found.fileSize or 0),
        modified=int(found.modification.timestamp()) if found.modification else 0,
    )
