"""`/v1/schedules`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from triune.api import pages, views
from triune.api import snapshot_schemas as schemas
from triune.api.replies import Json
from triune.api.routes.common import Run, Services
from triune.app import Triune
from triune.domain.errors import Invalid
from triune.domain.units import format_period, parse_duration
from triune.services.schedules import Schedule

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])

_FILTERS = ("name", "action", "subject")


def view(found: Schedule) -> dict[str, Any]:
    """One schedule as JSON."""
    plain: dict[str, Any] = views.plain(asdict(found))
    return plain


@router.get("", response_model=schemas.ScheduleList)
async def list_schedules(triune: Services, run: Run, query: pages.ByName) -> Response:
    """All schedules by name."""
    wanted = query.selection(known=schemas.Schedule.model_fields, keys=_FILTERS)
    return Json(await run.run(lambda: wanted.page(triune.schedules.list(), view)))


@router.get("/{name}", response_model=schemas.Schedule)
async def get_schedule(name: str, triune: Services, run: Run) -> Response:
    """One schedule."""
    return Json(await run.run(lambda: view(triune.schedules.get(name))))


@router.post("", status_code=201, responses={201: {"model": schemas.Schedule}})
async def create_schedule(body: schemas.ScheduleBody, triune: Services, run: Run) -> Response:
    """Add one. It runs first when its period has passed, or when its time of day has come."""
    content = await run.run(lambda: view(_create(triune, body)))
    return Json(content, status_code=201, headers={"Location": f"/v1/schedules/{content['name']}"})


def _create(triune: Triune, body: schemas.ScheduleBody) -> Schedule:
    every = parse_duration(body.every) if isinstance(body.every, str) else body.every
    keep = {"last": body.keep} if isinstance(body.keep, int) else dict(body.keep or {})
    options: dict[str, Any] = {"memory": True} if body.memory else {}
    subject = body.subject or ""
    if body.action == "backup":
        options = {"repository": body.repository, "password_file": body.password_file}
        triune.backups.check_schedule(subject, keep=keep, **options)
    elif not subject:
        raise Invalid("no_subject", "snapshots are scheduled for one instance each", hint="Name the instance.")
    else:
        triune.snapshots.check_schedule(subject, memory=body.memory)
    return triune.schedules.create(
        body.name or _name(subject or "all", every, body.at, "" if body.action == "snapshot" else body.action),
        body.action,
        subject,
        every=every,
        at=body.at,
        keep=keep,
        options=options,
    )


def _name(subject: str, every: float | None, at: str | None, action: str) -> str:
    """`web-1h`, `web-0300`, `web-backup-1d`: as long as a name may be."""
    when = format_period(every) if every is not None else (at or "").replace(":", "")
    end = f"{action}-{when}" if action else when
    return f"{subject[: 62 - len(end)]}-{end}"


@router.delete("/{name}", status_code=204)
async def remove_schedule(name: str, triune: Services, run: Run) -> Response:
    """Remove one; what it made stays."""
    await run.run(triune.schedules.delete, name)
    return Response(status_code=204)
