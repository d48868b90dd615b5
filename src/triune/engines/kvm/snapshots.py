"""Points in time of domains, as internal snapshots of their qcow2 disks: `virsh` and `qemu-img` see and handle them.

Taking one, without memory: the disks' state first (QEMU itself, or qemu-img), then libvirt is told of it. With memory:
libvirt does both. A UEFI machine's variables lie in a raw file, of which a copy is kept beside it; so does what its TPM
remembers.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, NotFound, TriuneError, Unsupported
from triune.domain.names import single_line, snapshot_name
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.kvm import checkpoints, drives, snapshot_xml, stillness, tpm
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import Client, library, not_running
from triune.engines.kvm.diskstates import DiskStates, snapshots
from triune.engines.kvm.records import Records
from triune.engines.kvm.spec import AGENT_PORT

_AGENT_COMES_BACK = 30.0
_POLL = 0.05


class Snapshots:
    """The `snapshots` facet."""

    memory = True

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._records = Records(client, state_dir)

    def create(self, name: str, snapshot: Snapshot, progress: Progress) -> Snapshot:
        """Take it. Raises Conflict("snapshot_exists"), Unsupported("disk_not_qcow2" | "no_memory_snapshot" | …)."""
        snapshot_name(snapshot.name)
        single_line(snapshot.comment, "the comment")
        machine = _Machine(self._client, name)
        self._records.mend(machine.domain)
        drives.require_qcow2(name, machine.drives, "snapshot")
        tpm.require_known_place(machine.root, name)
        if machine.find(snapshot.name) is not None or machine.states.has(snapshot.name):
            raise Conflict(
                "snapshot_exists",
                f"{name!r} has a snapshot {snapshot.name!r} already",
                hint=f"Choose another name, or remove it: triune snapshot rm {name} {snapshot.name}",
            )
        if snapshot.memory:
            _require_memory(machine)
        try:
            if snapshot.memory:
                return _take_with_memory(machine, snapshot, progress)
            return _take_disks(machine, snapshot, progress)
        except BaseException:
            with contextlib.suppress(TriuneError, OSError):
                _erase(machine, snapshot.name)
            raise

    def list(self, name: str) -> Sequence[Snapshot]:
        """All that libvirt knows, the oldest first."""
        domain = self._client.domain(name)
        self._records.mend(domain)
        with self._client.errors(name):
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
            found = [snapshot_xml.read(one.getXMLDesc(0)).snapshot for one in domain.listAllSnapshots(0)]
        sizes: dict[str, int] = {}
        if any(one.memory for one in found):
            inside = [
                one for drive in drives.writable(root) if drive.format == "qcow2" for one in snapshots(drive.path)
            ]
            sizes = {one.name: one.state_size for one in inside if one.state_size}
        found = [replace(one, size=sizes.get(one.name)) if one.memory else one for one in found]
        return sorted(found, key=lambda one: (one.created, one.name))

    def restore(self, name: str, snapshot: str, progress: Progress) -> None:
        """Put it back. Raises NotFound("snapshot_not_found"), Conflict("instance_running" | "disks_changed")."""
        machine = _Machine(self._client, name)
        self._records.mend(machine.domain)
        handle = machine.find(snapshot)
        if handle is None:
            raise NotFound(
                "snapshot_not_found",
                f"{name!r} has no snapshot {snapshot!r}",
                hint=f"See what there is: triune snapshot list {name}",
            )
        found = machine.read(handle)
        if found.external:
            raise _external(name, snapshot, "put back")
        if machine.active and not found.snapshot.memory:
            raise Conflict("instance_running", f"{name!r} is running", hint=f"Stop it first: triune stop {name}")
        machine = machine.only(found.disks, snapshot)
        progress.step("kvm-restore", f"putting {name} back")
        if machine.active:
            with self._client.errors(name):
                machine.domain.destroy()
        # Bitmaps of what changed since the last backup know nothing of what is put back.
        checkpoints.forget(self._client, machine.domain, name, machine.drives)
        with self._client.errors(name):
            if machine.domain.hasManagedSaveImage(0):
                machine.domain.managedSaveRemove(0)
        if found.snapshot.memory:
            _restore_memory(machine, handle)
        else:
            _restore_disks(machine, handle, snapshot)

    def delete(self, name: str, snapshot: str, progress: Progress) -> None:
        """Remove it. Internal snapshots need nothing of each other. Raises Unsupported("external_snapshot")."""
        del progress
        if self._client.find(name) is None:
            return
        machine = _Machine(self._client, name)
        self._records.mend(machine.domain)
        handle = machine.find(snapshot)
        if handle is not None and machine.read(handle).external:
            raise _external(name, snapshot, "removed")
        if handle is None:
            stillness.thaw(machine.domain)  # what a crash left half-made may have held it still
        _erase(machine, snapshot)


class _Machine:
    """A domain as it is now, and its disks."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
        self.domain = client.domain(name)
        with client.errors(name):
            self.active = bool(self.domain.isActive())
            virt = library()
            flags = 0 if self.active else virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE
            self.root = ET.fromstring(self.domain.XMLDesc(flags))  # noqa: S314 - from libvirt
        self.drives = drives.writable(self.root)
        self.nvram = drives.nvram(self.root)

    @property
    def states(self) -> DiskStates:
        """The states kept inside its disks."""
        inside = [drive for drive in self.drives if drive.format == "qcow2" and drive.path != Path()]
        return DiskStates(self.client, self.domain, self.name, inside)

    def only(self, targets: Sequence[str], snapshot: str) -> _Machine:
        """Itself with those disks alone that a snapshot holds."""
        held = [drive for drive in self.drives if drive.target in targets]
        if len(held) < len(targets):
            lost = ", ".join(sorted(set(targets) - {drive.target for drive in held}))
            raise Conflict(
                "disks_changed",
                f"the snapshot {snapshot!r} of {self.name!r} holds the disk {lost}, which is no longer there",
                hint=f"Attach it again, or clone the snapshot: triune clone {self.name} NEW --snapshot {snapshot}",
            )
        self.drives = held
        return self

    def find(self, snapshot: str) -> Any | None:
        """libvirt's snapshot of that name."""
        virt = library()
        try:
            return self.domain.snapshotLookupByName(snapshot, 0)
        except virt.libvirtError as error:
            if error.get_error_code() == virt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                return None
            with self.client.errors(self.name):
                raise

    def read(self, handle: Any) -> snapshot_xml.Read:
        """What libvirt knows of it."""
        with self.client.errors(self.name):
            return snapshot_xml.read(handle.getXMLDesc(0))

    def current(self) -> str | None:
        """The snapshot it stands on."""
        with self.client.errors(self.name):
            return str(self.domain.snapshotCurrent(0).getName()) if self.domain.hasCurrentSnapshot(0) else None

    def variables(self, snapshot: str) -> Path | None:
        """Where a snapshot's copy of the UEFI variables lies."""
        return self.nvram.with_name(f"{self.nvram.name}.{snapshot}") if self.nvram is not None else None

    def remembered(self, snapshot: str) -> Path | None:
        """Where a snapshot's copy of what its TPM remembers lies."""
        return tpm.kept(self.root, snapshot)


def _require_memory(machine: _Machine) -> None:
    name = machine.name
    if not machine.active:
        raise not_running(name)
    reason = ""
    if machine.nvram is not None:
        reason = "its UEFI variables lie in a raw file, which can't hold a running state"
    elif tpm.emulated(machine.root):
        reason = "it has a TPM, which is no part of a running state"
    elif machine.root.find("devices/filesystem") is not None:
        reason = "it shares a folder by virtiofs, whose state QEMU can't save"
    elif machine.root.find("devices/hostdev") is not None:
        reason = "it has a device of the host, whose state QEMU can't save"
    if reason:
        raise Unsupported(
            "no_memory_snapshot",
            f"the running state of {name!r} can't be kept: {reason}",
            hint=f"Take it without --memory: triune snapshot create {name}",
        )


def _take_with_memory(machine: _Machine, snapshot: Snapshot, progress: Progress) -> Snapshot:
    virt = library()
    taken = replace(snapshot, consistency=Consistency.MEMORY, parent=machine.current())
    xml = ET.tostring(snapshot_xml.build(taken, machine.drives, drives.untouched(machine.root)), encoding="unicode")
    progress.step("kvm-memory", "keeping the running state")
    with machine.client.errors(machine.name):
        machine.domain.snapshotCreateXML(xml, virt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)
    sizes = [one.state_size for drive in machine.drives for one in snapshots(drive.path) if one.name == taken.name]
    return replace(taken, size=max(sizes, default=0) or None)


def _take_disks(machine: _Machine, snapshot: Snapshot, progress: Progress) -> Snapshot:
    progress.step("kvm-snapshot", "keeping the disk")
    if not machine.active:
        return _take_at_rest(machine, snapshot)
    with stillness.held(machine.domain) as consistency:
        _keep_beside(machine, snapshot.name)
        machine.states.take(snapshot.name)
    taken = replace(snapshot, consistency=consistency, parent=machine.current())
    progress.step("kvm-record", "telling libvirt")
    _record(machine, taken)
    return taken


def _take_at_rest(machine: _Machine, snapshot: Snapshot) -> Snapshot:
    """Of a stopped machine: both at once, as nothing can be put back before this is done, and the one takes as long as
    the other."""
    _keep_beside(machine, snapshot.name)
    with ThreadPoolExecutor(1, "snapshot") as pool:
        keeping = pool.submit(machine.states.take, snapshot.name)
        taken = replace(snapshot, consistency=Consistency.STOPPED, parent=machine.current())
        _record(machine, taken)
        keeping.result()
    return taken


def _record(machine: _Machine, snapshot: Snapshot) -> None:
    virt = library()
    with machine.client.errors(machine.name):
        defined = machine.root
        if machine.active:
            text = machine.domain.XMLDesc(virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE)
            defined = ET.fromstring(text)  # noqa: S314 - from libvirt
        xml = snapshot_xml.recorded(snapshot, machine.drives, drives.untouched(machine.root), defined)
        flags = virt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | virt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
        machine.domain.snapshotCreateXML(xml, flags)


def _keep_beside(machine: _Machine, snapshot: str) -> None:
    copy = machine.variables(snapshot)
    if machine.nvram is not None and copy is not None and machine.nvram.exists():
        shutil.copyfile(machine.nvram, copy)
        copy.chmod(0o600)
    memory, copy = tpm.memory(machine.root), machine.remembered(snapshot)
    if memory is not None and copy is not None and memory.exists():
        copy.unlink(missing_ok=True)  # what a crash left
        tpm.copy(memory, copy)


def _restore_disks(machine: _Machine, handle: Any, snapshot: str) -> None:
    """Disks and libvirt's word of where it stands at once: the one takes about as long as the other."""
    with ThreadPoolExecutor(1, "restore") as pool:
        putting_back = pool.submit(machine.states.apply, snapshot)
        before = machine.current()
        _stand_on(machine, handle)
        try:
            putting_back.result()
        except BaseException:
            if before is not None and (stood_on := machine.find(before)) is not None:
                _stand_on(machine, stood_on)
            raise
    copy = machine.variables(snapshot)
    if machine.nvram is not None and copy is not None and copy.exists():
        fresh = machine.nvram.with_name(f"{machine.nvram.name}.new")
        shutil.copyfile(copy, fresh)
        fresh.chmod(0o600)
        fresh.replace(machine.nvram)
    if (copy := machine.remembered(snapshot)) is not None:
        tpm.put(copy, machine.root)


def _stand_on(machine: _Machine, handle: Any) -> None:
    virt = library()
    with machine.client.errors(machine.name):
        flags = virt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | virt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
        machine.domain.snapshotCreateXML(handle.getXMLDesc(virt.VIR_DOMAIN_SNAPSHOT_XML_SECURE), flags)


def _restore_memory(machine: _Machine, handle: Any) -> None:
    """QEMU puts the disks back before it reads the memory: should that fail, they are put back once more."""
    with machine.states.kept():
        try:
            with machine.client.errors(machine.name):
                machine.domain.revertToSnapshot(handle, 0)
        except BaseException:
            with contextlib.suppress(library().libvirtError):
                machine.domain.destroy()
            raise
    _set_clock(machine)


def _set_clock(machine: _Machine) -> None:
    """A guest put back believes that no time has passed. One that can't be told goes on so."""
    virt = library()
    with machine.client.errors(machine.name):
        running = machine.domain.state(0)[0] == virt.VIR_DOMAIN_RUNNING
    has_agent = machine.root.find(f"devices/channel/target[@name='{AGENT_PORT}']") is not None
    if not running or not has_agent:
        return
    agent = Agent(machine.client, machine.domain, machine.name)
    deadline = time.monotonic() + _AGENT_COMES_BACK
    while time.monotonic() < deadline:
        with contextlib.suppress(Unsupported, Failed, Conflict):
            agent.ping()
            break
        time.sleep(_POLL)
    with contextlib.suppress(TriuneError):
        agent.ask("guest-set-time", {"time": time.time_ns()}, timeout=10)


def _erase(machine: _Machine, snapshot: str) -> None:
    """Remove every trace of it, whatever there is: first the state in the disks, then what libvirt knows."""
    virt = library()
    machine.states.drop(snapshot)
    handle = machine.find(snapshot)
    if handle is not None:
        with machine.client.errors(machine.name):
            handle.delete(virt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    for copy in (machine.variables(snapshot), machine.remembered(snapshot)):
        if copy is not None:
            copy.unlink(missing_ok=True)


def _external(name: str, snapshot: str, what: str) -> Unsupported:
    return Unsupported(
        "external_snapshot",
        f"the snapshot {snapshot!r} of {name!r} lies in files beside the disks: another tool made it, "
        f"and it can't be {what} here",
        hint=f"See: virsh snapshot-dumpxml {name} {snapshot}; virsh blockcommit",
    )
