"""Machines that were made elsewhere, as domains like any other of ours: marked, in a folder of their own."""

from __future__ import annotations

import contextlib
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from triune.domain.errors import Conflict, NotFound, TriuneError
from triune.domain.operation import Progress
from triune.engines.importing import MachinePlan, Signs, Write
from triune.engines.kvm import folders, logs, machine_spec, tpm
from triune.engines.kvm import mark as marks
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.spec import Files, HostFacts

_TAIL = 40


class KvmImporting:
    """The facet."""

    def __init__(self, client: Client, state_dir: Path, host: Callable[[], HostFacts]) -> None:
        self._client = client
        self._state_dir = state_dir
        self._host = host

    def check(self, plan: MachinePlan) -> Sequence[str]:
        """Raise Invalid or Unsupported; returns what is missing here."""
        machine_spec.check(plan, self._host())
        missing = []
        if plan.machine.tpm and not tpm.available():
            install = f"apt-get install --no-install-recommends {tpm.PACKAGES}"
            missing.append(f"it has a TPM, and swtpm is not installed here ({install}): it runs without one")
        if plan.machine.uuid and not self._free(plan.machine.uuid):
            missing.append("another machine of this host has its UUID: it gets a new one")
        return missing

    def create(self, plan: MachinePlan, write: Write, progress: Progress) -> None:
        """Write the disks, define the domain. Raises Conflict("instance_exists" | "folder_in_use")."""
        name = plan.spec.name
        if self._client.find(name) is not None:
            raise Conflict("instance_exists", f"there is a virtual machine {name!r} already", hint="Choose another.")
        self.check(plan)
        files = Files(folder=self._state_dir / name)
        folders.require_free(self._client, files.folder)
        try:
            self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            if files.folder.exists():
                folders.remove(files.folder)  # no domain has it: what a crash left
            files.folder.mkdir(mode=0o711)
            for number, disk in enumerate(plan.machine.disks):
                path = machine_spec.disk_path(files, number)
                write(disk, path)
                path.chmod(0o600)
            progress.step("kvm-define", "defining the virtual machine")
            xml = machine_spec.build(plan, files, self._host(), self._identity(plan), tpm=tpm.available())
            self._client.call(lambda connection: connection.defineXML(xml), name=name)
        except BaseException:
            # only the files: a domain of that name would be somebody else's, defined meanwhile
            with contextlib.suppress(OSError):
                folders.remove(files.folder)
            raise

    def _identity(self, plan: MachinePlan) -> uuid.UUID:
        had = plan.machine.uuid
        return uuid.UUID(had) if had and self._free(had) else uuid.uuid4()

    def _free(self, text: str) -> bool:
        try:
            self._client.call(lambda connection: connection.lookupByUUIDString(text))
        except NotFound:
            return True
        return False

    def signs(self, name: str) -> Signs:
        """Agent and console."""
        domain = self._client.domain(name)
        with self._client.errors(name):
            running = bool(domain.isActive())
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
        folder = folders.of(root, self._state_dir)
        said = logs.last_lines(Files(folder=folder).serial_log, _TAIL) if folder else b""
        agent = running and self._answers(domain, name)
        if agent:
            self._remember(domain, name, root)
        return Signs(running=running, agent=agent, said=said)

    def _answers(self, domain: object, name: str) -> bool:
        try:
            Agent(self._client, domain, name).ping()
        except TriuneError:
            return False
        return True

    def _remember(self, domain: object, name: str, root: ET.Element) -> None:
        """From now on a start waits for the agent."""
        mark = marks.read(root)
        if mark is None or mark.agent:
            return
        virt = library()
        flags = virt.VIR_DOMAIN_AFFECT_LIVE | virt.VIR_DOMAIN_AFFECT_CONFIG
        text = marks.unnamed(replace(mark, agent=True))
        with self._client.errors(name):
            domain.setMetadata(  # type: ignore[attr-defined]
                virt.VIR_DOMAIN_METADATA_ELEMENT, text, "triune", marks.NAMESPACE, flags
            )
