"""The `templates` facet: virtual machines that start from a booted, idle, saved one instead of booting.

See docs/WARM.md. A template is made without a card; a copy gets its own overlay (a copy of the few megabytes that the
boot wrote), the saved memory under its own name, its identity, and then its card. What is defined is
what a cold launch defines: after the next start nothing tells the two apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from triune.domain.errors import Cancelled, Conflict, Failed, TriuneError, Unreachable, Unsupported
from triune.domain.operation import Progress
from triune.engines.base import LaunchPlan
from triune.engines.kvm import identity, restore, savefile
from triune.engines.kvm.client import Client, apart, insist, library
from triune.engines.kvm.identity import Identity
from triune.engines.kvm.lifecycle import Lifecycle
from triune.engines.kvm.names import PREFIX, is_template
from triune.engines.kvm.spec import DEFAULT_MEMORY, Files, HostFacts, build, disk_form, disk_size
from triune.engines.kvm.templates_disk import Shelf, Template
from triune.engines.kvm.templates_make import destroy, make
from triune.engines.kvm.templates_spec import cards, clone_xml, facts, key, program, waiting_socket, why_not
from triune.host.run import run

_IDENTITY = 30.0
_KEPT = 3  # of one image, for different sizes of machines
_ROOM = 2**30  # bytes of disk that must be left
_FORGIVEN = timedelta(days=1)  # after which what failed may be tried again without being asked


class Templates:
    """Implements engines.base.Templates."""

    def __init__(self, client: Client, lifecycle: Lifecycle, folder: Path, host: Callable[[], HostFacts]) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._shelf = Shelf(folder)
        self._host = host
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        # More at once only get into each other's way, and libvirt stops to answer.
        self._turns = threading.Semaphore(max(2, os.cpu_count() or 1))

    # What there is

    def ready(self, plan: LaunchPlan) -> bool:
        """Whether a template fits this plan now."""
        return not why_not(plan) and self._fitting(plan) is not None

    def why_not(self, plan: LaunchPlan) -> str:
        """Why this plan can't start warm at all, one sentence; "" when it can."""
        reason = why_not(plan)
        if reason:
            return reason
        found = self._shelf.find(key(self._facts(plan)))
        if found is None or datetime.now(UTC) - found.created > _FORGIVEN:
            return ""
        return found.failed

    def list(self) -> Sequence[Mapping[str, object]]:
        """`{image, size, created, ready, why}` of each on disk."""
        versions = self._versions()
        rows = []
        for template in self._shelf.all():
            why = template.failed or _outdated(template, versions)
            rows.append(
                {
                    "image": template.image,
                    "size": template.size(),
                    "created": template.created,
                    "ready": not why,
                    "why": why,
                }
            )
        return rows

    def _fitting(self, plan: LaunchPlan) -> Template | None:
        found = self._shelf.find(key(self._facts(plan)))
        return found if found is not None and not found.failed else None

    def _facts(self, plan: LaunchPlan) -> dict[str, str]:
        return facts(plan, self._host(), self._versions())

    def _versions(self) -> dict[str, str]:
        """What a saved machine cannot outlive. Under emulation QEMU is all of the machine."""
        qemu, libvirt = self._client.call(lambda connection: (connection.getVersion(), connection.getLibVersion()))
        found = {"qemu": str(qemu), "libvirt": str(libvirt), "program": program()}
        return {**found, "kernel": platform.release(), "cpu": _cpu()} if self._host().accelerated else found

    # Making and removing

    @apart
    def make(self, plan: LaunchPlan, progress: Progress, *, aside: bool = False) -> None:
        """Boot the plan's image once and save it; does nothing when `ready`.

        Steps: template-disk, template-boot, template-settle, template-save, template-publish. Raises
        Conflict("template_busy"), Failed("template_failed" | "no_space" | "no_memory"), Unsupported("not_warmable").
        What failed before is tried again.
        """
        reason = why_not(plan)
        if reason:
            raise Unsupported("not_warmable", f"{plan.image} can't be kept warm: {reason}", hint="It boots as usual.")
        of = self._facts(plan)
        name = key(of)
        with self._alone(name):
            if self._fitting(plan) is not None:
                return
            self._require_room(plan)
            made = Template(
                key=name,
                folder=self._shelf.root / name,
                image=plan.image,
                created=datetime.now(UTC),
                facts=of,
            )
            self._make(plan, made, progress, aside=aside)
            self._tidy(plan.image, name)

    def _make(self, plan: LaunchPlan, made: Template, progress: Progress, *, aside: bool) -> None:
        files = Files(folder=self._shelf.begin(made.key))
        try:
            token = make(self._client, plan, self._host(), files, self._domain(made.key), progress, aside=aside)
            progress.step("template-publish", "keeping the template")
            self._shelf.publish(replace(made, token=token))
        except Failed as error:
            if error.code == "template_failed":
                self.fail(replace(made, failed=str(error.details.get("why", error.message))))
            shutil.rmtree(files.folder, ignore_errors=True)
            raise
        except BaseException:
            shutil.rmtree(files.folder, ignore_errors=True)
            raise

    def fail(self, template: Template) -> None:
        """Remember that this can't be kept warm, so that not each launch tries it again."""
        self._shelf.begin(template.key)
        self._shelf.publish(template)

    def _require_room(self, plan: LaunchPlan) -> None:
        """The memory is needed twice: by the machine, and for the file, which is in the page cache first."""
        memory = plan.spec.memory or DEFAULT_MEMORY
        self._shelf.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        free = shutil.disk_usage(self._shelf.root).free
        if free < memory + _ROOM:
            raise Failed(
                "no_space",
                f"a template of {plan.image} may need {memory >> 20} MiB of disk, and only {free >> 20} MiB are free",
                hint="Make room; instances of it boot as usual.",
            )
        available = _available()
        if available is not None and available < 2 * memory:
            raise Failed(
                "no_memory",
                f"too little memory is free to boot {plan.image} once more ({available >> 20} MiB)",
                hint="Stop something; instances of it boot as usual.",
            )

    def _tidy(self, image: str, kept: str) -> None:
        """Remove the image's outdated templates, and the oldest beyond a few."""
        versions, now = self._versions(), self._shelf.find(kept)
        mine = [template for template in self._shelf.all() if template.image == image and template.key != kept]
        mine.sort(key=lambda template: template.created, reverse=True)
        for index, template in enumerate(mine):
            replaced = now is not None and template.facts.get("image") != now.facts.get("image")
            if replaced or _outdated(template, versions) or index >= _KEPT - 1:
                self._shelf.drop(template.key)

    def remove(self, image: str) -> None:
        """Remove those of an image. Gone: succeed."""
        for template in list(self._shelf.all()):
            if template.image == image:
                self._shelf.drop(template.key)

    def sweep(self) -> None:
        """End and remove what an interrupted `make` left."""
        with self._lock:
            busy = set(self._busy)
            own = {self._domain(name) for name in busy}
            suffix = self._suffix()
            domains = self._client.call(lambda connection: [each.name() for each in connection.listAllDomains(0)])
            for name in domains:
                if is_template(name) and name.endswith(suffix) and name not in own:
                    destroy(self._client, name)
            self._shelf.sweep(busy)

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._lock:
            if name in self._busy:
                raise Conflict("template_busy", "this template is being made already", hint="See: triune ops list")
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(name)

    def _domain(self, name: str) -> str:
        return f"{PREFIX}{name[:12]}{self._suffix()}"

    def _suffix(self) -> str:
        """Several daemons may share a libvirt: each sweeps only its own."""
        return "_" + hashlib.sha256(str(self._shelf.root).encode()).hexdigest()[:8]

    # Starting from one

    @apart
    def launch(self, plan: LaunchPlan, progress: Progress) -> None:
        """`create`, `start` and `wait_ready` in one. Steps: kvm-disk, kvm-define, kvm-restore, kvm-identity.

        Raises Failed("warm_failed") where the template is to blame: it is not tried again; a cold launch may follow.
        """
        template = self._fitting(plan)
        if template is None:
            raise Failed("warm_failed", f"there is no template of {plan.image}", hint="It boots as usual.")
        with self._turn(progress):
            self._launch(template, plan, progress)

    def _launch(self, template: Template, plan: LaunchPlan, progress: Progress) -> None:
        name, host = plan.spec.name, self._host()
        self._lifecycle.create(plan, host, progress, disk=lambda _plan, files: _copy(template.disk, files.disk))
        try:
            self._restore(template, plan, host, progress)
        except (Cancelled, Unreachable):
            self._undo(name)
            raise
        except (TriuneError, OSError, ValueError) as error:
            self._undo(name)
            why = error.message if isinstance(error, TriuneError) else str(error)
            self._blame(template, why)
            raise Failed("warm_failed", f"{name!r} could not start warm: {why}", hint="It boots as usual.") from error
        except BaseException:
            self._undo(name)
            raise

    @contextlib.contextmanager
    def _turn(self, progress: Progress) -> Iterator[None]:
        while not self._turns.acquire(timeout=0.2):
            progress.report(None, "waiting for others that are starting")
        try:
            yield
        finally:
            self._turns.release()

    def _undo(self, name: str) -> None:
        with contextlib.suppress(TriuneError, OSError):
            self._lifecycle.delete(name)

    def _blame(self, template: Template, why: str) -> None:
        with contextlib.suppress(OSError, Conflict), self._alone(template.key):
            self.fail(
                replace(
                    template,
                    token="",
                    created=datetime.now(UTC),
                    failed=f"the last start from its template failed: {why}",
                )
            )

    def _restore(self, template: Template, plan: LaunchPlan, host: HostFacts, progress: Progress) -> None:
        name = plan.spec.name
        files = self._lifecycle.files(name)
        cold = build(plan, files, host)
        progress.step("kvm-restore", "starting from the template")
        with template.memory.open("rb") as memory:
            head = savefile.read(memory)
            xml = clone_xml(head.xml, cold, files)
            own = savefile.Head(xml=xml, cookie=head.cookie, running=head.running, compression=head.compression)
            insist(lambda: restore.restore(self._client, name, own, memory, head.memory, files.fifo))
        progress.step("kvm-identity", "giving it its identity and its card")
        domain = self._client.domain(name)
        # One after the other: nothing of the old identity is ever on the network, and a guest that has to set a card up
        # at the same time answers later than the few milliseconds that plugging takes (measured: 0.32 and 0.48 s).
        self._identify(domain, template, plan)
        self._plug(domain, name, cold)

    def _plug(self, domain: Any, name: str, cold: str) -> None:
        for card in cards(cold):
            with self._client.errors(name):
                domain.attachDeviceFlags(card, library().VIR_DOMAIN_AFFECT_LIVE)

    def _identify(self, domain: Any, template: Template, plan: LaunchPlan) -> None:
        name, form = plan.spec.name, disk_form(plan)
        grow = disk_size(plan) > form.virtual_size
        with self._client.errors(name):
            path = waiting_socket(domain.XMLDesc(0))
            if grow:
                domain.blockResize("vda", disk_size(plan), library().VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        who = Identity(
            hostname=None if form.fixed_hostname else name,
            machine_id=plan.machine_id,
            grow=grow,
        )
        identity.tell(path, name, template.token, who, timeout=_IDENTITY)


def _copy(source: Path, target: Path) -> None:
    run(["cp", "--reflink=auto", "--sparse=always", "--no-preserve=all", source, target])
    target.chmod(0o600)


def _outdated(template: Template, versions: Mapping[str, str]) -> str:
    words = {
        "qemu": "QEMU",
        "libvirt": "libvirt",
        "kernel": "the host's kernel",
        "cpu": "the host's CPU",
        "program": "Triune",
    }
    changed = [word for name, word in words.items() if template.facts.get(name) != versions.get(name)]
    return f"{' and '.join(changed)} changed since" if changed else ""


def _available() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _cpu() -> str:
    """The host's CPU as far as a guest sees it."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        wanted = ("model name", "stepping", "microcode", "flags")
        return " ".join(line.partition(":")[2].strip() for line in lines if line.split("\t")[0] in wanted)
    return ""
