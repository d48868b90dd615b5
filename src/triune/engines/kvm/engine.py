"""The KVM engine: virtual machines as ordinary libvirt domains, accelerated where that is proved, else emulated."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.domain.image import DiskForm, FormKind
from triune.domain.instance import Instance, InstanceDetail, Stats
from triune.domain.operation import Progress
from triune.engines import base
from triune.engines.archiving import Archiving
from triune.engines.auditing import Auditing
from triune.engines.base import EventSink, LaunchPlan, Probe
from triune.engines.importing import Importing
from triune.engines.kvm import counters, inventory, seed, spec
from triune.engines.kvm.archiving import KvmArchiving
from triune.engines.kvm.attaching import Attaching
from triune.engines.kvm.auditing import KvmAuditing
from triune.engines.kvm.client import Client
from triune.engines.kvm.cloning import Cloning
from triune.engines.kvm.commands import Commands
from triune.engines.kvm.console import Console
from triune.engines.kvm.files import KvmFiles
from triune.engines.kvm.importing import KvmImporting
from triune.engines.kvm.layers import Layers
from triune.engines.kvm.lifecycle import Lifecycle
from triune.engines.kvm.limits import Limiting, missing
from triune.engines.kvm.logs import Logs
from triune.engines.kvm.records import Records
from triune.engines.kvm.rename import Renaming
from triune.engines.kvm.snapshots import Snapshots
from triune.engines.kvm.templates import Templates
from triune.engines.kvm.watch import Watch
from triune.host import cgroup, kvm

_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
_MISSING = {
    "bridging": "a virtual machine joins any bridge by itself",
    "oci": "QEMU has no store of OCI images",
    "ports": "ports of virtual machines are published by Triune's network, not by libvirt",
}


class KvmEngine:
    """Implements engines.base.Engine. `env` of an instance is given to every command run in it."""

    name = inventory.ENGINE
    title = "Virtual machines (libvirt, QEMU)"
    form_kind = FormKind.DISK

    def __init__(self, state_dir: Path, *, uri: str = "qemu:///system", proof_cache: Path | None = kvm.CACHE) -> None:
        self._client = Client(uri)
        self._proof_cache = proof_cache
        self._facts: spec.HostFacts | None = None
        self._facts_lock = threading.Lock()
        self._proved = False
        self._kernels: dict[str, str] = {}
        self._state_dir = state_dir
        self._layers = Layers(self._client, state_dir)
        self._records = Records(self._client, state_dir)
        self._lifecycle = Lifecycle(self._client, state_dir)
        commands = Commands(self._client, state_dir)
        self.commands: base.Commands | None = commands
        self.pausing: base.Pausing | None = self._lifecycle
        self.renaming: base.Renaming | None = Renaming(self._client, state_dir)
        self.logs: base.Logs | None = Logs(self._client)
        self.console: base.Console | None = Console(self._client)
        self.bridging: base.Bridging | None = None
        self.oci: base.OciStore | None = None
        self.ports: base.NativePorts | None = None
        self.limiting: base.Limiting | None = Limiting(self._client, self.host, _cpu_cgroup())
        self.snapshots: base.Snapshots | None = Snapshots(self._client, state_dir)
        self.cloning: base.Cloning | None = Cloning(self._client, state_dir, self._layers)
        self.templates: base.Templates | None = Templates(
            self._client, self._lifecycle, state_dir.with_name(f"{state_dir.name}-templates"), self.host
        )
        self.attaching: base.Attaching | None = Attaching(self._client, self.host)
        self.archiving: Archiving | None = KvmArchiving(self._client, state_dir, self.host, self.delete)
        self.files: base.Files | None = KvmFiles(commands)
        self.auditing: Auditing | None = KvmAuditing(self._client)
        self.importing: Importing | None = KvmImporting(self._client, state_dir, self.host)

    def host(self, kernel: Path | None = None) -> spec.HostFacts:
        """What this host can do; proved once. `kernel`: a stock one to prove it with, if none has been tried."""
        with self._facts_lock:
            if self._facts is not None and (kernel is None or self._proved):
                return self._facts
            proof = kvm.prove(kernel, cache=self._proof_cache)
            facts = spec.HostFacts(
                accelerated=proof.usable,
                memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                cpus=os.cpu_count() or 1,
                cpu_cgroup=_cpu_cgroup(),
                virtiofs=any(Path(path).exists() for path in _VIRTIOFSD),
                emulator=shutil.which(kvm.QEMU) or f"/usr/bin/{kvm.QEMU}",
                cpu_model="host-passthrough" if proof.cpu == kvm.HOST_CPU else proof.cpu,
            )
            # A device or a QEMU that was not there may come while we run.
            if proof.lasting:
                self._facts = facts
                self._proved = bool(proof.kernel) or not proof.usable or str(kernel) in proof.unfit
            return facts

    def probe(self) -> Probe:
        """Versions, and whether KVM is proved."""
        gone = {**_MISSING, **missing(_cpu_cgroup())}
        try:
            numbers = self._client.call(lambda c: (c.getLibVersion(), c.getVersion()), seconds=1.8)
        except TriuneError as error:
            return Probe(available=False, reason=error.message, hint=error.hint, missing=gone)
        proof = kvm.prove(cache=self._proof_cache)
        libvirt, qemu = (_version(number) for number in numbers)
        facts: dict[str, object] = {
            "accelerated": proof.usable, "kvm": proof.reason, "libvirt": libvirt, "qemu": qemu, "uri": self._client.uri,
        }  # fmt: skip
        slow = kvm.libvirt_reprobes()
        if slow is not None:
            facts["slow"] = slow
        return Probe(available=True, version=libvirt, missing=gone, facts=facts)

    def list(self) -> Sequence[Instance]:
        """All domains of the host."""
        return inventory.rows(self._client)

    def row(self, name: str) -> Instance:
        """One domain as in the list."""
        return inventory.named(self._client, name)

    def get(self, name: str) -> InstanceDetail:
        """One domain in detail."""
        return inventory.detail(self._client, name, self._kernels)

    def check(self, plan: LaunchPlan) -> None:
        """Raise Invalid or Unsupported if `create` would refuse."""
        spec.check(plan, self._host_for(plan))
        if spec.needs_seed(plan):
            seed.tool()

    def create(self, plan: LaunchPlan, progress: Progress) -> None:
        """Make it, stopped. Steps: kvm-disk, kvm-seed, kvm-define."""
        self.check(plan)
        self._lifecycle.create(plan, self._host_for(plan), progress)

    def _host_for(self, plan: LaunchPlan) -> spec.HostFacts:
        return self.host(plan.form.kernel if isinstance(plan.form, DiskForm) else None)

    def start(self, name: str, progress: Progress) -> None:
        """Start it."""
        self._lifecycle.start(name, progress)

    def stop(self, name: str, *, timeout: float, force: bool, progress: Progress) -> None:
        """Shut it down."""
        self._lifecycle.stop(name, timeout, force, progress)

    def wait_ready(self, name: str, timeout: float, progress: Progress) -> None:
        """Wait for the guest agent."""
        self._lifecycle.wait_ready(name, timeout, progress)

    def delete(self, name: str) -> None:
        """Remove it with everything that is its own."""
        self._lifecycle.delete(name)
        self._layers.sweep()
        self._records.sweep()

    def stats(self) -> Mapping[str, Stats]:
        """Counters of every running domain."""
        return counters.read(self._client)

    def watch(self, sink: EventSink) -> base.Watch:
        """Deliver libvirt's lifecycle events."""
        return Watch(self._client, self.name, sink, self._state_dir)


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _cpu_cgroup() -> int | None:
    return cgroup.hierarchies().version("cpu")
