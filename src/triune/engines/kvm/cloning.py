"""Clones: copies of machines that share what both began with, under a new identity.

Of a stopped machine of ours nothing is copied (see `layers`). Elsewhere the clone stands on the same image and gets a
copy of what the original has changed: while it runs (from a snapshot that lives as long as that takes), of a snapshot,
where snapshots lie in the disk (they stay the original's), and for machines that are not ours, whose disks stay as they
are. The guest's own identity is renewed at the clone's first start, through its agent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, NotFound, Unsupported
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.engines.base import ClonePlan
from triune.engines.kvm import checkpoints, clone_xml, drives, folders, snapshot_xml, stillness, tpm
from triune.engines.kvm import mark as marks
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.clone_xml import Chain
from triune.engines.kvm.diskstates import DiskStates, snapshots
from triune.engines.kvm.drives import Drive
from triune.engines.kvm.layers import DEEPEST, Layers
from triune.engines.kvm.restoring import boot_files
from triune.engines.kvm.spec import Files
from triune.host.run import run

_STATE = "triune-clone"  # the original's disks, while a clone of a running machine is copied


@dataclass(frozen=True, slots=True, kw_only=True)
class _Original:
    """What is cloned: its definition for the next start, its disks, its folder (None: not ours)."""

    domain: Any
    root: ET.Element
    drives: Sequence[Drive]
    folder: Path | None
    active: bool

    @property
    def shareable(self) -> bool:
        """Whether its disks may become layers: ours, at rest, and without snapshots inside."""
        return (
            self.folder is not None
            and not self.active
            and all(drive.format == "qcow2" and drive.path.parent == self.folder for drive in self.drives)
            and all(len(drive.backing) <= DEEPEST for drive in self.drives)
            and not any(snapshots(drive.path) for drive in self.drives)
        )


class Cloning:
    """The `cloning` facet."""

    live = True

    def __init__(self, client: Client, state_dir: Path, layers: Layers) -> None:
        self._client = client
        self._state_dir = state_dir
        self._layers = layers

    def clone(self, plan: ClonePlan, progress: Progress) -> None:
        """Make it. Raises Conflict("instance_exists" | "folder_in_use"), NotFound("snapshot_not_found"), Unsupported(
        "external_snapshot" | "disk_not_a_file" | "disk_not_qcow2" | "tpm_elsewhere")."""
        files = Files(folder=self._state_dir / instance_name(plan.new))
        original = self._original(plan.name)
        if self._client.find(plan.new) is not None:
            raise Conflict(
                "instance_exists",
                f"there is a virtual machine {plan.new!r} already",
                hint=f"Choose another name, or: triune rm {plan.new}",
            )
        folders.require_free(self._client, files.folder)
        tpm.require_known_place(original.root, plan.name)
        state = self._wanted(original, plan)
        try:
            self._make_folder(files)
            if state is None and not self._has_saved_state(original, plan.name) and original.shareable:
                self._share(original, plan, files, progress)
            else:
                with self._held(original, plan, state, progress) as held:
                    disks = self._copies(original, files, held, progress)
                    self._define(original, plan, files, disks, progress)
        except BaseException:
            # only the files: a domain of that name would be somebody else's, defined meanwhile
            shutil.rmtree(files.folder, ignore_errors=True)
            self._layers.sweep()
            raise

    def _original(self, name: str) -> _Original:
        virt = library()
        domain = self._client.domain(name)
        with self._client.errors(name):
            active = bool(domain.isActive())
            text = domain.XMLDesc(virt.VIR_DOMAIN_XML_INACTIVE | virt.VIR_DOMAIN_XML_SECURE)
        root = ET.fromstring(text)  # noqa: S314 - from libvirt
        own = folders.of(root, self._state_dir) if marks.read(root) is not None else None
        return _Original(domain=domain, root=root, drives=drives.writable(root), folder=own, active=active)

    def _has_saved_state(self, original: _Original, name: str) -> bool:
        with self._client.errors(name):
            return bool(original.domain.hasManagedSaveImage(0)) or original.domain.snapshotNum(0) > 0

    def _wanted(self, original: _Original, plan: ClonePlan) -> str | None:
        """The snapshot to clone, proved to be there."""
        for drive in original.drives:
            if drive.path == Path():
                raise Unsupported(
                    "disk_not_a_file",
                    f"the disk {drive.target} of {plan.name!r} is no file: it can't be copied",
                    hint=f"Detach it first: virsh detach-disk {plan.name} {drive.target} --config",
                )
        if plan.snapshot is not None:
            virt = library()
            try:
                handle = original.domain.snapshotLookupByName(plan.snapshot, 0)
                text = handle.getXMLDesc(0)
            except virt.libvirtError:
                raise NotFound(
                    "snapshot_not_found",
                    f"{plan.name!r} has no snapshot {plan.snapshot!r}",
                    hint=f"See what there is: triune snapshot list {plan.name}",
                ) from None
            if snapshot_xml.read(text).external:
                raise Unsupported(
                    "external_snapshot",
                    f"the snapshot {plan.snapshot!r} of {plan.name!r} lies in files of another tool's",
                    hint=f"See: virsh snapshot-dumpxml {plan.name} {plan.snapshot}",
                )
        return plan.snapshot

    def _make_folder(self, files: Files) -> None:
        self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        if files.folder.exists():
            shutil.rmtree(files.folder)  # no domain has it: what a crash left
        files.folder.mkdir(mode=0o711)

    def _share(self, original: _Original, plan: ClonePlan, files: Files, progress: Progress) -> None:
        """Both go on above what was the original's disk so far."""
        checkpoints.forget(self._client, original.domain, plan.name, original.drives)
        disks: dict[str, Chain] = {}
        with self._layers.lock:
            progress.step("kvm-layer", f"sharing the disk of {plan.name}")
            self._freeze(original, plan.name, progress)
            for drive in drives.writable(original.root):
                path = files.folder / _file_name(drive)
                self._layers.overlay(path, drive.backing[0])
                disks[drive.target] = ((path, "qcow2"), *drive.backing)
            self._define(original, plan, files, disks, progress)

    def _freeze(self, original: _Original, name: str, progress: Progress) -> None:
        """Give each disk that has something of its own to a layer, and define the original anew above it."""
        made: list[tuple[Drive, Path, Path]] = []
        try:
            for drive in original.drives:
                if self._layers.free(drive) is None:
                    made.append((drive, *self._layers.share(drive)))
            if not made:
                return
            for drive, layer, overlay in made:
                disk = drives.element(original.root, drive.target)
                clone_xml.set_chain(disk, ((overlay, "qcow2"), (layer, "qcow2"), *drive.backing))
            progress.step("kvm-redefine", f"leading {name} to its part of it")
            xml = ET.tostring(original.root, encoding="unicode")
            self._client.call(lambda connection: connection.defineXML(xml), name=name)
        except BaseException:
            for _, layer, overlay in made:
                overlay.unlink(missing_ok=True)
                shutil.rmtree(layer.parent, ignore_errors=True)
            raise
        for drive, layer, _ in made:
            layer.chmod(0o400)
            drive.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _held(
        self, original: _Original, plan: ClonePlan, state: str | None, progress: Progress
    ) -> Iterator[str | None]:
        """The name of the state in the disks to copy, None for the disks as they are; kept still meanwhile."""
        if state is not None or not original.active:
            yield state
            return
        drives.require_qcow2(plan.name, original.drives, "copy while it runs")
        states = DiskStates(self._client, original.domain, plan.name, original.drives)
        states.drop(_STATE)  # what a crash left
        progress.step("kvm-hold", f"holding {plan.name} still")
        with stillness.held(original.domain):
            states.take(_STATE)
        try:
            yield _STATE
        finally:
            states.drop(_STATE)

    def _copies(self, original: _Original, files: Files, state: str | None, progress: Progress) -> dict[str, Chain]:
        """Copies of what the original's disks hold above what they stand on."""
        progress.step("kvm-copy", "copying what it has changed")
        disks: dict[str, Chain] = {}
        for drive in original.drives:
            path = files.folder / _file_name(drive)
            argv: list[str | Path] = ["qemu-img", "convert", "-q", "-f", drive.format, "-O", "qcow2"]
            if original.active:
                argv.append("-U")
            if state is not None:
                argv += ["-l", f"snapshot.name={state}"]
            if drive.backing:
                argv += ["-B", drive.backing[0][0], "-F", drive.backing[0][1]]
            run([*argv, drive.path, path], timeout=None)
            path.chmod(0o600)
            disks[drive.target] = ((path, "qcow2"), *drive.backing)
            progress.check()
        return disks

    def _define(
        self, original: _Original, plan: ClonePlan, files: Files, disks: dict[str, Chain], progress: Progress
    ) -> None:
        _copy_files(original, files, plan.snapshot)
        progress.step("kvm-define", "defining the virtual machine")
        xml = clone_xml.build(original.root, plan, original.folder, files, disks)
        remembered = tpm.kept(original.root, plan.snapshot) if plan.snapshot else tpm.memory(original.root)
        tpm.define(self._client, plan.new, xml, remembered)


def _copy_files(original: _Original, files: Files, snapshot: str | None) -> None:
    nvram = drives.nvram(original.root)
    if nvram is not None:
        kept = nvram.with_name(f"{nvram.name}.{snapshot}") if snapshot else nvram
        if kept.exists():
            shutil.copyfile(kept, files.nvram)
            files.nvram.chmod(0o600)
    if original.folder is None:
        return
    own = Files(folder=original.folder)
    for file in boot_files(original.root).values():
        if file.parent == original.folder:  # of one that was made of a backup
            os.link(file, files.folder / file.name)
    for path, copy in ((own.seed, files.seed), (own.environment, files.environment)):
        if path.exists():
            copy.touch(mode=0o600)
            shutil.copyfile(path, copy)


def _file_name(drive: Drive) -> str:
    return "disk.qcow2" if drive.target in ("vda", "sda") else f"disk-{drive.target}.qcow2"
