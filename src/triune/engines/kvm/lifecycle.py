"""Making, starting, stopping and removing domains, each step safe to be cut off at and to be repeated."""

from __future__ import annotations

import contextlib
import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, NotFound, TriuneError, Unreachable, Unsupported
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.engines.base import LaunchPlan
from triune.engines.kvm import folders, inventory, logs, renewal, seed
from triune.engines.kvm import mark as marks
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import Client, apart, insist, library, not_running
from triune.engines.kvm.restore import release
from triune.engines.kvm.settings import parse
from triune.engines.kvm.spec import Files, HostFacts, build, disk_form, disk_size, needs_seed
from triune.host.run import run

_POLL = 0.03
_FIRST_BOOT = 180.0  # seconds for a clone to become itself
_AGENT_SHUTDOWN_PATIENCE = 3  # seconds for the agent to take a shutdown before ACPI is tried
_RESTART = 15.0  # seconds for a libvirt that is restarted to come back


class Lifecycle:
    """The engine's required verbs."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir

    def files(self, name: str) -> Files:
        """The instance's own files."""
        return Files(folder=self._state_dir / instance_name(name))

    @apart
    def create(
        self,
        plan: LaunchPlan,
        host: HostFacts,
        progress: Progress,
        *,
        disk: Callable[[LaunchPlan, Files], None] | None = None,
    ) -> None:
        """Make the disk (by `disk` instead, if given), the seed and the domain.

        Raises Conflict("instance_exists" | "folder_in_use").
        """
        name = plan.spec.name
        if self._client.find(name) is not None:
            raise Conflict(
                "instance_exists",
                f"there is a virtual machine {name!r} already",
                hint=f"Choose another name, or: triune rm {name}",
            )
        files = self.files(name)
        folders.require_free(self._client, files.folder)
        try:
            self._make_files(plan, files, progress, disk or make_disk)
            progress.step("kvm-define", "defining the virtual machine")
            xml = build(plan, files, host)
            domain = self._client.call(lambda connection: connection.defineXML(xml), name=name)
        except BaseException:
            # only the files: a domain of that name would be somebody else's, defined meanwhile
            with contextlib.suppress(OSError):
                folders.remove(files.folder)
            raise
        try:
            if parse(plan.spec.settings).autostart:
                with self._client.errors(name):
                    domain.setAutostart(1)
        except BaseException:
            with contextlib.suppress(TriuneError, OSError):
                self.delete(name)
            raise

    def _make_files(
        self, plan: LaunchPlan, files: Files, progress: Progress, disk: Callable[[LaunchPlan, Files], None]
    ) -> None:
        progress.step("kvm-disk", "making the disk")
        # QEMU's user must be able to pass through, and nobody to look in.
        self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        if files.folder.exists():
            folders.remove(files.folder)  # no domain has it: what a crash left
        files.folder.mkdir(mode=0o711)
        if plan.pool is not None:
            folders.place_disk(files.folder, plan.pool, inventory.ENGINE)
        disk(plan, files)
        if plan.spec.env:
            files.environment.touch(mode=0o600)
            files.environment.write_text(json.dumps(dict(plan.spec.env)))
        if needs_seed(plan):
            progress.step("kvm-seed", "writing the first-boot data")
            name = None if disk_form(plan).fixed_hostname else plan.spec.name
            seed.write(files.seed, seed.files(name, plan.machine_id or plan.spec.name, plan.user_data))

    @apart
    def start(self, name: str, progress: Progress) -> None:
        """Start it; does nothing when it is running."""
        domain = self._client.domain(name)
        with self._client.errors(name):
            if domain.isActive():
                return
        progress.step("kvm-start", "starting the virtual machine")

        def create() -> None:
            with self._client.errors(name):
                domain.create()

        try:
            insist(create)
        except Conflict:
            with self._client.errors(name):
                if not domain.isActive():  # else someone was quicker
                    raise
        with self._client.errors(name):
            mark = marks.read(ET.fromstring(domain.XMLDesc(0)))  # noqa: S314 - from libvirt
        if mark is not None and mark.renew:
            # Not a moment longer than it must go about as its original.
            self.wait_ready(name, _FIRST_BOOT, progress)

    @apart
    def stop(self, name: str, timeout: float, force: bool, progress: Progress) -> None:
        """Agent, then ACPI, then (with `force`) the plug. Raises Failed("stop_timeout")."""
        domain = self._client.domain(name)
        with self._client.errors(name):
            if not domain.isActive():
                return
        if timeout > 0:
            progress.step("kvm-shutdown", "asking the guest to shut down")
            if self._ask_to_stop(domain, name, timeout, progress):
                return
        if not force:
            raise Failed(
                "stop_timeout",
                f"{name!r} did not shut down within {timeout:g} s",
                hint=f"Try again with a longer time, look at: triune console {name}, or: triune stop --force {name}",
            )
        progress.step("kvm-destroy", "switching the virtual machine off")
        self._destroy(domain, name)

    def _ask_to_stop(self, domain: Any, name: str, timeout: float, progress: Progress) -> bool:
        virt = library()
        with self._client.errors(name):
            if domain.state(0)[0] in (virt.VIR_DOMAIN_PAUSED, virt.VIR_DOMAIN_PMSUSPENDED):
                with contextlib.suppress(virt.libvirtError):
                    domain.resume()  # a frozen guest hears nothing
            connected = inventory.agent_connected(ET.fromstring(domain.XMLDesc(0)))  # noqa: S314 - from libvirt
        if connected:
            with contextlib.suppress(virt.libvirtError):
                domain.agentSetResponseTimeout(_AGENT_SHUTDOWN_PATIENCE, 0)
                domain.shutdownFlags(virt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
        began = time.monotonic()
        pressed = 0.0 if not connected else began + min(timeout / 2, _AGENT_SHUTDOWN_PATIENCE)
        while time.monotonic() - began < timeout:
            if self._active(name) is None:
                return True
            if time.monotonic() >= pressed:
                with contextlib.suppress(virt.libvirtError):
                    domain.shutdownFlags(virt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                pressed = time.monotonic() + 10  # early in its boot a guest misses the button
            progress.check()
            time.sleep(_POLL)
        return self._active(name) is None

    def _active(self, name: str) -> Any | None:
        """The domain, or None once it is off. A libvirt that goes away is waited for: upgraded, it comes back soon."""
        began = time.monotonic()
        while True:
            try:
                domain = self._client.find(name)  # a transient one is gone when it stops
                with self._client.errors(name):
                    return domain if domain is not None and domain.isActive() else None
            except NotFound:
                return None
            except Unreachable:
                if time.monotonic() - began > _RESTART:
                    raise
            time.sleep(_POLL)

    def _destroy(self, domain: Any, name: str) -> None:
        virt = library()
        with self._client.errors(name):
            try:
                domain.destroy()
            except virt.libvirtError as error:
                gone = (virt.VIR_ERR_OPERATION_INVALID, virt.VIR_ERR_NO_DOMAIN)
                if error.get_error_code() not in gone:
                    raise

    @apart
    def wait_ready(self, name: str, timeout: float, progress: Progress) -> None:
        """Wait for the guest agent (or, without one in the image, for running), then mount the volumes."""
        domain = self._client.domain(name)
        with self._client.errors(name):
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
        mark = marks.read(root)
        expects = mark is not None and mark.agent
        progress.report(None, "waiting for the guest" if expects else "running")
        began = time.monotonic()
        while True:
            domain = self._active(name)
            if domain is None:
                raise self._not_ready(name, root, "stopped before it was ready")
            if not expects:
                return
            agent = Agent(self._client, domain, name)
            with contextlib.suppress(Unsupported, Failed, Conflict, Unreachable):
                agent.ping()
                break
            if time.monotonic() >= began + timeout:
                raise self._not_ready(name, root, f"was not ready within {timeout:g} s")
            progress.check()
            time.sleep(max(_POLL, (time.monotonic() - began) / 100))
        if mark is not None and mark.renew:
            renewal.renew(self._client, domain, name, root, mark, progress)
        if mark is not None:
            _mount(agent, mark, name)

    def _not_ready(self, name: str, root: ET.Element, what: str) -> Failed:
        folder = folders.of(root, self._state_dir)
        said = logs.last_lines(Files(folder=folder).serial_log, 20).decode(errors="replace") if folder else ""
        clean = ["".join(char for char in line if char.isprintable()) for line in said.splitlines()]
        return Failed(
            "not_ready",
            f"{name!r} {what}",
            hint=f"See what it said: triune logs {name}",
            console=clean[-20:],
        )

    def pause(self, name: str) -> None:
        """Freeze it; does nothing when it is frozen."""
        self._switch(name, to_paused=True)

    def resume(self, name: str) -> None:
        """Thaw it; does nothing when it runs."""
        self._switch(name, to_paused=False)

    @apart
    def _switch(self, name: str, *, to_paused: bool) -> None:
        virt = library()
        domain = self._client.domain(name)
        with self._client.errors(name):
            state = domain.state(0)[0]
            if state in (virt.VIR_DOMAIN_SHUTOFF, virt.VIR_DOMAIN_CRASHED):
                raise not_running(name)
            if (state == virt.VIR_DOMAIN_PAUSED) == to_paused:
                return
            if to_paused:
                domain.suspend()
            else:
                domain.resume()

    @apart
    def delete(self, name: str) -> None:
        """Switch it off, undefine it, remove its own folder. An adopted domain's disks stay where they are."""
        if "/" not in name:
            release(self._state_dir / name / Files.FIFO)  # a restore that a crash of ours cut off waits there
        domain = self._client.find(name)
        if domain is not None:
            with self._client.errors(name):
                root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
            managed = marks.read(root) is not None
            self._remove_domain(domain, name, managed=managed)
            if not managed:
                return
            if (own := folders.of(root, self._state_dir)) is not None:
                folders.remove(own)
        if "/" in name or name in ("", ".", ".."):
            return
        left = self._state_dir / name
        if left.exists() and folders.holder(self._client, left) is None:
            folders.remove(left)

    def _remove_domain(self, domain: Any, name: str, *, managed: bool) -> None:
        virt = library()
        with self._client.errors(name):
            active, persistent = domain.isActive(), domain.isPersistent()
        if active:
            self._destroy(domain, name)
        if persistent:
            flags = (
                virt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | virt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | virt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                | (virt.VIR_DOMAIN_UNDEFINE_NVRAM if managed else virt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
            )
            with self._client.errors(name):
                try:
                    domain.undefineFlags(flags)
                except virt.libvirtError as error:
                    if error.get_error_code() != virt.VIR_ERR_NO_DOMAIN:
                        raise


def make_disk(plan: LaunchPlan, files: Files) -> None:
    """An overlay over the image, or an empty disk."""
    form = disk_form(plan)
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if form.path is not None:
        argv += ["-b", form.path, "-F", form.format]
    run([*argv, files.disk, str(disk_size(plan))])
    files.disk.chmod(0o600)


def _mount(agent: Agent, mark: marks.Mark, name: str) -> None:
    """Mount the volumes in the guest; a mounted one is left alone."""
    for tag, target in mark.volumes:
        for argv in (["mkdir", "-p", "--", target], ["mount", "-t", "virtiofs", tag, target]):
            if argv[0] == "mount" and _run(agent, ["mountpoint", "-q", target]) == 0:
                continue
            if _run(agent, argv) != 0:
                raise Failed(
                    "volume_not_mounted",
                    f"the guest {name!r} could not mount its volume at {target}",
                    hint="Its kernel needs virtiofs (Linux 5.4 or newer).",
                )


def _run(agent: Agent, argv: list[str]) -> int:
    pid = agent.execute(argv)
    for _ in range(600):
        done = agent.outcome(pid)
        if done is not None:
            return done[0]
        time.sleep(0.05)
    return -1
