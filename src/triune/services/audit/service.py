"""Auditing instances: facts from their engines, a probe inside, rules, waivers, a score."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Cancelled, Failed, NotFound, TriuneError
from triune.domain.image import FormKind, Image
from triune.domain.instance import Instance, State, Stats
from triune.domain.isolation import Door, Exposure, Isolation
from triune.domain.operation import Operation
from triune.engines.base import Engine
from triune.host import doors
from triune.services.audit import escapes, facts, judging, report
from triune.services.audit.judging import Subject
from triune.services.audit.knowledge import knowledge
from triune.services.audit.probing import Probed, probe
from triune.services.audit.report import Audited
from triune.services.audit.reports import Reports
from triune.services.audit.waivers import Waiver
from triune.services.images import Images
from triune.services.images.references import OCI_PREFIX
from triune.services.instances import Instances
from triune.services.instances.facets import require_facet
from triune.services.operations import Operations, Task

log = logging.getLogger(__name__)

_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """Which instances (none named: all), whether to probe inside, and what is waived."""

    names: tuple[str, ...] = ()
    probe: bool = True
    waivers: tuple[Waiver, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What is read once for all instances of an audit: exposures by engine, counters, images by name."""

    exposed: Mapping[str, Exposure]
    stats: Mapping[tuple[str, str], Stats]
    images: Mapping[str, Image]
    now: datetime


class Audits:
    """Audits of this host's instances. `folder` keeps the reports; `socket` is our own API's."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        instances: Instances,
        images: Images,
        operations: Operations,
        *,
        folder: Path,
        socket: Path,
    ) -> None:
        self._engines = engines
        self._instances = instances
        self._images = images
        self._operations = operations
        self._socket = socket
        self.reports = Reports(folder)

    def audit(self, request: AuditRequest) -> Operation:
        """Look at instances; its result has `report`, where the API has it, and its `summary`.

        Raises NotFound, Unsupported, and Unreachable where an engine of those that are named is away, at once.
        """
        for name in request.names:
            engine = self._instances.inventory.engine_of(name)
            require_facet(engine, "auditing", engine.auditing)
            engine.row(name)
        resource = f"instances/{request.names[0]}" if len(request.names) == 1 else "host"
        return self._operations.submit("audit", resource, lambda task: self._kept(request, task))

    def _kept(self, request: AuditRequest, task: Task) -> dict[str, Any]:
        """The work of the operation."""
        made = self.run(request, task)
        self.reports.keep(task.operation.id, made)
        return {"report": f"/v1/audits/{task.operation.id}", "summary": made["summary"]}

    def run(self, request: AuditRequest, task: Task) -> dict[str, Any]:
        """The report as plain JSON values."""
        now = datetime.now(UTC)
        listing = self._instances.list()
        wanted = [row for row in listing.instances if not request.names or row.name in request.names]
        task.step("engines", "asking the engines")
        # Of one that is named, another engine that is away says nothing.
        concerned = {row.engine for row in wanted} if request.names else set(self._engines)
        exposed, problems = self._exposures(concerned)
        problems += [
            {"subject": problem.engine, "error": problem.error.as_dict()}
            for problem in listing.problems
            if problem.engine not in {one["subject"] for one in problems}
            and (problem.engine in concerned or len(wanted) < len(request.names))
        ]
        seen = _Seen(
            exposed=exposed,
            stats={(one.engine, one.name): one.stats for one in self._instances.stats()},
            images={image.name: image for image in self._images.list()},
            now=now,
        )
        task.step("instances", f"looking at {len(wanted)} instance{'' if len(wanted) == 1 else 's'}")
        done, missed = self._all(wanted, seen, request, task)
        problems += missed
        return report.whole(
            known=knowledge(),
            created=now,
            host=self._host(exposed, request.waivers, now),
            instances=done,
            waivers=[one for one in request.waivers if not request.names or one.concerns(request.names)],
            problems=problems,
        )

    def _exposures(self, names: set[str]) -> tuple[dict[str, Exposure], list[dict[str, Any]]]:
        found: dict[str, Exposure] = {}
        problems: list[dict[str, Any]] = []
        for name in sorted(names):
            engine = self._engines[name]
            if engine.auditing is None or not engine.probe().available:
                continue
            try:
                found[name] = engine.auditing.exposure()
            except TriuneError as error:
                problems.append({"subject": name, "error": error.as_dict()})
        return found, problems

    def _all(
        self,
        wanted: Sequence[Instance],
        seen: _Seen,
        request: AuditRequest,
        task: Task,
    ) -> tuple[list[Audited], list[dict[str, Any]]]:
        """Each of them, a few at a time, and those that could not be looked at."""
        done: list[Audited] = []
        missed: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="audit") as pool:
            work = [pool.submit(self._one, row, seen, request) for row in wanted]
            for number, (row, future) in enumerate(zip(wanted, work, strict=True)):
                try:
                    task.report(number / len(wanted), row.name)
                    done.append(future.result())
                except Cancelled:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                except TriuneError as error:
                    # Of all, one that was removed meanwhile is simply not there.
                    if request.names or not isinstance(error, NotFound):
                        missed.append({"subject": row.name, "error": error.as_dict()})
                except Exception as error:
                    # An instance may be as no engine should leave it; the others are looked at all the same.
                    log.exception("the audit of %s failed", row.name)
                    missed.append({"subject": row.name, "error": _unexpected(error).as_dict()})
        return done, missed

    def _one(self, row: Instance, seen: _Seen, request: AuditRequest) -> Audited:
        engine, known = self._engines[row.engine], knowledge()
        native = require_facet(engine, "auditing", engine.auditing).isolation(row.name)
        isolation = self._completed(native, row, seen.images)
        probed = self._probe(engine, row, isolation, wanted=request.probe)
        parts = escapes.concerning(seen.exposed.get(row.engine, Exposure()).components, isolation)
        open_ways = escapes.opened(known.escapes, parts)
        used = seen.stats.get((row.engine, row.name))
        keys = frozenset(engine.limiting.keys) if engine.limiting is not None else frozenset()
        pids = self._pids_limited(engine, row.name, isolation, keys)
        told = facts.of(
            isolation,
            known,
            system=engine.form_kind is not FormKind.OCI,
            pids_limited=pids,
            escapes=[f"{way.name} ({part.name} {part.version})" for part, way in open_ways],
            probed=probed,
            now=seen.now,
        )
        subject = Subject(
            name=row.name,
            engine=row.engine,
            image=isolation.image or row.image,
            ports=isolation.ports,
            used=used.memory_bytes if used else None,
            processes=used.pids if used else None,
            limits=keys,
        )
        found = judging.findings(known.rules, told, subject, request.waivers, seen.now.date())
        return Audited(
            row=row,
            isolation=isolation,
            score=judging.score(known, told, found),
            findings=found,
            probed=probed,
            notes=tuple(facts.unknown(isolation)),
        )

    def _completed(self, isolation: Isolation, row: Instance, images: Mapping[str, Image]) -> Isolation:
        """With what we know of the image, where the engine knows nothing, and of ports that are published by us."""
        intent = self._instances.intent(row.name)
        if not isolation.ports and intent is not None:
            ports = tuple(str(port) for port in _published(intent))
            isolation = replace(isolation, ports=ports)
        if isolation.image is None or (isolation.image_created is not None and isolation.image_origin):
            return isolation
        image = images.get(isolation.image)
        if image is None and isolation.image_created is None:
            gone = {**isolation.unknown, "image_created": f"its image {isolation.image} is not here"}
            return replace(isolation, unknown=gone)
        # A registry's image is as its engine says; one of our own is as old as our record of it.
        if image is None or isolation.image.startswith(OCI_PREFIX):
            return isolation
        return replace(isolation, image_created=image.created, image_origin=image.sha256 or image.source)

    def _pids_limited(self, engine: Engine, name: str, isolation: Isolation, keys: frozenset[str]) -> bool | None:
        if isolation.own_kernel or "pids" not in keys:
            return None
        return self._instances.limits(name).pids is not None

    def _probe(self, engine: Engine, row: Instance, isolation: Isolation, *, wanted: bool) -> Probed:
        if not wanted:
            return Probed(ran=False, reason="it was not asked for")
        if row.state is not State.RUNNING:
            return Probed(ran=False, reason=f"{row.name} is {row.state.value}, so nothing can be tried inside")
        if engine.commands is None:
            reason = engine.probe().missing.get("commands", "this engine runs no commands")
            return Probed(ran=False, reason=f"no command can be run in it: {reason}")
        return probe(engine.commands, row.name, isolation, knowledge().steps)

    def _host(self, exposed: Mapping[str, Exposure], waivers: Sequence[Waiver], now: datetime) -> dict[str, Any]:
        ours = doors.socket_file(self._socket)
        every = [(name, door) for name, one in exposed.items() for door in one.doors]
        found = judging.findings(
            knowledge().host, host_facts(ours, [door for _, door in every]), None, waivers, now.date()
        )
        shown = [("", ours)] if ours else []
        return {
            "name": platform.node(),
            "kernel": platform.release(),
            "components": [
                {
                    "engine": name,
                    "name": part.name,
                    "version": part.version,
                    "package": part.package,
                    "package_version": part.package_version,
                }
                for name, one in exposed.items()
                for part in one.components
            ],
            "doors": [report.door(door, name) for name, door in (*shown, *every)],
            "findings": [report.finding(one) for one in found],
        }


def host_facts(ours: Door | None, others: Sequence[Door]) -> dict[str, Any]:
    """What the rules for the host ask of the doors to daemons."""
    sockets = [door for door in others if door.kind == "unix"]
    ports = [door for door in others if door.kind == "tcp"]
    return {
        "api": ours.address if ours else "",
        "api_world": _for_all(ours) if ours else None,
        "api_members": list(ours.owners) if ours else [],
        "sockets_world": [door.address for door in sockets if _for_all(door)],
        "socket_members": [f"{', '.join(door.owners)} ({door.group})" for door in sockets if _members(door)],
        "ports_plain": [door.address for door in ports if not door.guarded],
        "ports_tls": [door.address for door in ports if door.guarded],
    }


def _unexpected(error: Exception) -> TriuneError:
    return Failed(
        "audit_failed",
        f"looking at it failed unexpectedly: {type(error).__name__}: {error}",
        hint="The daemon's log has more: triune.log, or journalctl -u triune",
    )


def _for_all(door: Door) -> bool:
    return door.mode is not None and bool(door.mode & 0o002) and not door.guarded


def _members(door: Door) -> bool:
    return bool(door.owners) and door.mode is not None and bool(door.mode & 0o020)


def _published(intent: Mapping[str, Any]) -> list[str]:
    """Ports as they were asked for, in the words of `--publish`."""
    ports = []
    for port in intent["spec"].get("publish") or ():
        ip = f"{port['host_ip']}:" if port.get("host_ip") else ""
        suffix = "/udp" if port.get("protocol") == "udp" else ""
        ports.append(f"{ip}{port['host_port']}:{port['guest_port']}{suffix}")
    return ports
