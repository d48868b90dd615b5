"""Backups of virtual machines: every disk the guest may write, as it is at one instant, over NBD.

A running guest is held still only for as long as the instant takes to begin; a checkpoint begins with it, so that the
next backup reads what was written since and nothing else. A machine that boots by a kernel beside its disk takes that
along (once per repository), so that it can be made again where its image is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from triune.domain.errors import TriuneError, Unsupported
from triune.domain.instance import InstanceSpec
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency
from triune.engines.archiving import Archive, Part, PartKind, RestorePlan
from triune.engines.kvm import checkpoints, drives, exports, folders, inventory, restoring, stillness, tpm, tuning
from triune.engines.kvm import mark as marks
from triune.engines.kvm.bases import Bases
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.drives import Drive
from triune.engines.kvm.layers import virtual_size
from triune.engines.kvm.spec import Files, HostFacts

_FOLDER = ".backup-"
BOOT = "boot"
NVRAM = "nvram"
SEED = "seed"


class KvmArchiving:
    """The facet."""

    def __init__(
        self, client: Client, state_dir: Path, host: Callable[[], HostFacts], delete: Callable[[str], None]
    ) -> None:
        self._client = client
        self._state_dir = state_dir
        self._host = host
        self._delete = delete

    def describe(self, name: str) -> Mapping[str, object]:
        """`xml` (as defined), `folder` (its own, or null), `environment`, `disks` (target → what it stands on)."""
        machine = Subject(self._client, self._state_dir, name)
        environment = Files(folder=machine.folder).environment if machine.folder else None
        mark = marks.read(machine.defined)
        spec = InstanceSpec(
            name=name,
            image=mark.image if mark else "",
            engine=inventory.ENGINE,
            cpus=tuning.cpus(machine.defined),
            memory=tuning.memory(machine.defined),
            settings=mark.settings if mark else {},
        )
        return {
            "xml": ET.tostring(machine.defined, encoding="unicode"),
            "folder": str(machine.folder) if machine.folder else None,
            "environment": environment.read_text() if environment and environment.exists() else None,
            "disks": {drive.target: [str(path) for path, _ in drive.backing] for drive in machine.drives},
            "spec": asdict(spec),
        }

    def open(self, name: str, base: str | None, progress: Progress) -> Archive:
        """Begin the instant. Raises Unsupported("disk_not_a_file" | "tpm_elsewhere")."""
        machine = Subject(self._client, self._state_dir, name)
        _require_files(machine)
        tpm.require_known_place(machine.live, name)
        self._let_go(machine)  # what a crash left
        progress.step("kvm-export", f"opening the disks of {name}")
        self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        archive = KvmArchive(self._client, self._state_dir, machine, self._place_of(machine))
        try:
            archive.begin(base)
        except BaseException:
            archive.close()
            raise
        return archive

    def abandon(self, name: str, *, running: bool) -> None:
        """End what is served, thaw it, forget a checkpoint that no backup stands for."""
        if self._client.find(name) is None:
            return
        machine = Subject(self._client, self._state_dir, name)
        self._let_go(machine)
        if running:
            stillness.thaw(machine.domain)

    def _let_go(self, machine: Subject) -> None:
        folder = self._place_of(machine)
        if not folder.exists():
            return
        exports.Pull(self._client, machine.domain, machine.name, folder).end()
        exports.Served(folder).end()
        bases = Bases(self._state_dir, machine.uuid)
        known = checkpoints.names(self._client, machine.domain, machine.name)
        loose = [one for one in known if one.startswith(checkpoints.PREFIX) and one not in bases.checkpoints()]
        with contextlib.suppress(TriuneError):
            checkpoints.drop(self._client, machine.domain, machine.name, machine.drives, loose)
        shutil.rmtree(folder, ignore_errors=True)

    def _place_of(self, machine: Subject) -> Path:
        # short: the path of a unix socket has at most 107 bytes
        return self._state_dir / f"{_FOLDER}{machine.uuid[:8]}"

    def place(self, plan: RestorePlan) -> Path:
        """The folder of all machines."""
        del plan
        self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        return self._state_dir

    def restore(self, plan: RestorePlan, progress: Progress) -> None:
        """See `restoring`."""
        restoring.restore(self._client, self._state_dir, self._host(), plan, progress)

    def discard(self, name: str) -> None:
        """The same as delete."""
        self._delete(name)


class Subject:
    """A domain, and what of it is backed up."""

    def __init__(self, client: Client, state_dir: Path, name: str) -> None:
        virt = library()
        self.name = name
        self.domain = client.domain(name)
        with client.errors(name):
            self.active = bool(self.domain.isActive())
            self.uuid = str(self.domain.UUIDString())
            self.live = ET.fromstring(self.domain.XMLDesc(0))  # noqa: S314 - from libvirt
            text = self.domain.XMLDesc(virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE)
        self.defined = ET.fromstring(text)  # noqa: S314 - from libvirt
        self.drives = drives.writable(self.live)
        own = marks.read(self.live) is not None
        self.folder = folders.of(self.live, state_dir) if own else None


def _require_files(machine: Subject) -> None:
    for drive in machine.drives:
        if drive.path == Path():
            raise Unsupported(
                "disk_not_a_file",
                f"the disk {drive.target} of {machine.name!r} is no file: it can't be backed up",
                hint=f"Detach it first: virsh detach-disk {machine.name} {drive.target}, or back it up by other means.",
            )
    if not machine.drives:
        raise Unsupported(
            "no_disk", f"{machine.name!r} has no disk that could be backed up", hint=f"See: triune show {machine.name}"
        )


class KvmArchive:
    """The disks at one instant."""

    still = True

    def __init__(self, client: Client, state_dir: Path, machine: Subject, folder: Path) -> None:
        self._client = client
        self._machine = machine
        self._folder = folder
        self._bases = Bases(state_dir, machine.uuid)
        self._pull = exports.Pull(client, machine.domain, machine.name, folder)
        self._served = exports.Served(folder)
        self._checkpoint: str | None = None
        self._kept = False
        self.parts: Sequence[Part] = ()
        self.consistency = Consistency.STOPPED.value

    def begin(self, base: str | None) -> None:
        """Hold the instant and serve it."""
        exports.make_folder(self._client, self._folder)
        known = checkpoints.names(self._client, self._machine.domain, self._machine.name)
        since = self._bases.checkpoint(base)
        if since not in known:
            since = None
        if self._machine.active:
            changed = self._begin_running(since)
        else:
            changed = {drive.target: self._served.begin(drive, since) for drive in self._machine.drives}
        disks = [self._disk(drive, base, changed.get(drive.target)) for drive in self._machine.drives]
        self.parts = (*disks, *self._files(), *self._boot())

    def _begin_running(self, since: str | None) -> dict[str, exports.Ranges | None]:
        machine = self._machine
        self._checkpoint = f"{checkpoints.PREFIX}{secrets.token_hex(6)}"
        with stillness.held(machine.domain) as consistency:
            try:
                self._pull.begin(machine.drives, self._checkpoint, since)
            except TriuneError:
                if since is None:
                    raise
                # A bitmap that QEMU could not write out in time is of no use; all is read then.
                since = None
                self._pull.begin(machine.drives, self._checkpoint, None)
        self.consistency = consistency.value
        return {drive.target: self._pull.changed(drive) if since else None for drive in machine.drives}

    def _disk(self, drive: Drive, base: str | None, changed: exports.Ranges | None) -> Part:
        socket = self._pull.socket if self._machine.active else self._served.socket(drive)
        return Part(
            kind=PartKind.DISK,
            name=drive.target,
            socket=socket,
            export=drive.target,
            size=virtual_size(drive.path) if drive.format == "qcow2" else drive.path.stat().st_size,
            base=base if changed is not None else None,
            changed=changed,
        )

    def _files(self) -> Sequence[Part]:
        """Small raw files, copied: UEFI variables, what the TPM remembers, and the first-boot data."""
        machine = self._machine
        sources = {NVRAM: drives.nvram(machine.live)}
        if machine.folder is not None:
            sources[SEED] = Files(folder=machine.folder).seed
        found = []
        for name, source in sources.items():
            if source is not None and source.exists():
                copy = self._folder / name
                shutil.copyfile(source, copy)
                found.append(Part(kind=PartKind.DISK, name=name, path=copy, size=copy.stat().st_size))
        remembered = tpm.memory(machine.live)
        if remembered is not None and remembered.exists():
            copy = self._folder / restoring.TPM
            tpm.copy(remembered, copy)
            found.append(Part(kind=PartKind.DISK, name=restoring.TPM, path=copy, size=copy.stat().st_size))
        return found

    def _boot(self) -> Sequence[Part]:
        """The kernel beside the disk, by its content."""
        files = restoring.boot_files(self._machine.defined)
        if not files:
            return ()
        digest = hashlib.sha256()
        for path in files.values():
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())

        def write(folder: Path, progress: Progress) -> None:
            for name, path in files.items():
                progress.check()
                shutil.copyfile(path, folder / name)

        return (Part(kind=PartKind.IMAGE, name=BOOT, digest=f"sha256:{digest.hexdigest()}", write=write),)

    def hold(self) -> None:
        """It is still."""

    def release(self) -> None:
        """Nothing was held."""

    def keep(self, backup: str) -> None:
        """Remember the instant's checkpoint. What can't be remembered only makes the next backup read more."""
        machine = self._machine
        self._end()
        if self._checkpoint is None:
            name = f"{checkpoints.PREFIX}{secrets.token_hex(6)}"
            if self._started_meanwhile():
                return
            with contextlib.suppress(TriuneError):
                checkpoints.add(self._client, machine.domain, machine.name, machine.drives, name)
                self._checkpoint = name
        if self._checkpoint is not None and any(drive.format == "qcow2" for drive in machine.drives):
            gone = self._bases.add(backup, self._checkpoint)
            self._kept = True
            with contextlib.suppress(TriuneError):
                checkpoints.drop(self._client, machine.domain, machine.name, machine.drives, gone)

    def _started_meanwhile(self) -> bool:
        """Whether a machine that was stopped may have written since (another tool can start it)."""
        with self._client.errors(self._machine.name):
            return bool(self._machine.domain.isActive())

    def _end(self) -> None:
        self._pull.end()
        self._served.end()

    def close(self) -> None:
        """End the job and what was served; forget the checkpoint unless a backup stands for it."""
        machine = self._machine
        self._end()
        if self._checkpoint is not None and not self._kept:
            with contextlib.suppress(TriuneError):
                checkpoints.drop(self._client, machine.domain, machine.name, machine.drives, [self._checkpoint])
        shutil.rmtree(self._folder, ignore_errors=True)
