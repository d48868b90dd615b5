"""`/v1` and `/v1/host`: the daemon, the host, and what each engine can do on it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from triune import __version__
from triune.api import schemas, views
from triune.api.replies import Json
from triune.api.routes.common import Run, Services
from triune.app import Triune
from triune.domain.errors import TriuneError
from triune.domain.limits import NETWORK
from triune.engines.base import FACETS, Engine

router = APIRouter(prefix="/v1", tags=["host"])
_MEMORY = "snapshots.memory"  # the one part of a facet that hosts differ in

# Each name stays for ever once it is here; clients ask for it before they use what it names.
FEATURES = (
    "instances",
    "images",
    "networks",
    "operations",
    "events",
    "exec",
    "console",
    "logs",
    "stats",
    "idempotency-key",
    "if-match",
    "operation-events",
    "limits",
    "audits",
)


@router.get("", response_model=schemas.Version)
async def version() -> Response:
    """The daemon's version and what its API has."""
    return Json({"name": "triune", "version": __version__, "api": "v1", "features": list(FEATURES)})


@router.get("/host", response_model=schemas.Host)
async def host(triune: Services, run: Run) -> Response:
    """Facts of the host, and what each engine can do on it, with the reason for what it can't."""
    return Json(await run.run(_host, triune))


def _host(triune: Triune) -> dict[str, Any]:
    data = triune.settings.data
    with ThreadPoolExecutor(len(triune.engines) or 1) as pool:
        engines = list(pool.map(lambda engine: _engine(triune, engine), triune.engines.values()))
    return {
        "hostname": platform.node(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_available_bytes": _available(),
        "data": str(data),
        "data_free_bytes": shutil.disk_usage(data).free,
        "version": __version__,
        "engines": engines,
        "network_blockers": _blockers(triune),
        "network_problems": [views.plain(problem.as_dict()) for problem in triune.networks.problems()],
    }


def _limits(triune: Triune, engine: Engine, missing: Mapping[str, str]) -> dict[str, Any]:
    """Which limits it can set, which of them on a running instance, and why not the others."""
    reasons = triune.limits.reasons(engine, missing)
    live = engine.limiting.live if engine.limiting is not None else frozenset()
    return {
        key: {"available": not reason, "live": not reason and (key in live or key in NETWORK), "reason": reason}
        for key, reason in reasons.items()
    }


def _engine(triune: Triune, engine: Engine) -> dict[str, Any]:
    probe = engine.probe()
    facets = {
        facet: {
            "available": getattr(engine, facet) is not None,
            "reason": "" if getattr(engine, facet) is not None else probe.missing.get(facet, ""),
        }
        for facet in FACETS
    }
    if engine.snapshots is not None:
        reason = probe.missing.get(_MEMORY, "")
        facets[_MEMORY] = {"available": not reason, "reason": reason}
    return {
        "name": engine.name,
        "title": engine.title,
        "available": probe.available,
        "version": probe.version,
        "reason": probe.reason,
        "hint": probe.hint,
        "facets": facets,
        "limits": _limits(triune, engine, probe.missing),
        "facts": views.plain(probe.facts),
    }


def _blockers(triune: Triune) -> list[dict[str, str]]:
    try:
        return [
            {"what": found.what, "sentence": found.sentence, "fix": found.fix} for found in triune.networks.blockers()
        ]
    except TriuneError as error:
        return [{"what": "unknown", "sentence": error.message, "fix": error.hint}]


def _available() -> int | None:
    with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - a stream, not a file to load
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
