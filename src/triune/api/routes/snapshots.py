"""`/v1/instances/{name}/snapshots` and `/v1/instances/{name}/clone`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from triune.api import pages, views
from triune.api import snapshot_schemas as schemas
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, IfMatch, Run, Services, accepted, require_match
from triune.domain.errors import Invalid
from triune.domain.operation import Operation
from triune.domain.snapshot import Snapshot
from triune.domain.units import parse_duration
from triune.services.snapshots import CloneRequest, SnapshotRequest

router = APIRouter(prefix="/v1/instances/{name}", tags=["snapshots"])

_FILTERS = ("name", "consistency", "memory", "schedule")


def _view(instance: str, found: Snapshot) -> dict[str, Any]:
    return {**views.plain(asdict(found)), "instance": instance}


def _expires(text: str | None) -> datetime | None:
    """`7d` from now, or a time. Raises Invalid."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) + timedelta(seconds=parse_duration(text))
    except (Invalid, OverflowError):
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            found = datetime.min
        if found.tzinfo is None:
            raise Invalid(
                "bad_expiry",
                f"{text!r} is neither a duration nor a time with its zone",
                hint="Write it like 12h, 7d or 2030-01-31T12:00:00Z.",
            ) from None
        return found


@router.get("/snapshots", response_model=schemas.SnapshotList)
async def list_snapshots(
    name: str,
    triune: Services,
    run: Run,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
    fields: pages.Fields = None,
    filtered: pages.Filter = None,
) -> Response:
    """All snapshots of an instance, the oldest first."""
    after = pages.decode_cursor(cursor, 2)
    selection = pages.Selection(fields, filtered, known=schemas.Snapshot.model_fields, keys=_FILTERS)

    def key(row: pages.Row) -> tuple[str, ...]:
        return (str(row["created"]), str(row["name"]))

    def work() -> dict[str, object]:
        rows = sorted((_view(name, one) for one in triune.snapshots.list(name)), key=key)
        return selection.page((row for row in rows if after is None or key(row) > after), limit=limit, cursor=key)

    return Json(await run.run(work))


@router.post("/snapshots", status_code=202, responses=ACCEPTED)
async def create_snapshot(
    name: str, triune: Services, run: Run, body: schemas.SnapshotBody | None = None, if_match: IfMatch = None
) -> Response:
    """Take one; its name is in the operation's result."""
    what = body or schemas.SnapshotBody()
    request = SnapshotRequest(
        instance=name, name=what.name, memory=what.memory, expires=_expires(what.expires), comment=what.comment
    )

    def work() -> Operation:
        require_match(triune, name, if_match)
        return triune.snapshots.create(request)

    return accepted(await run.run(work))


@router.get("/snapshots/{snapshot}", response_model=schemas.Snapshot)
async def get_snapshot(name: str, snapshot: str, triune: Services, run: Run) -> Response:
    """One of them."""
    return Json(await run.run(lambda: _view(name, triune.snapshots.get(name, snapshot))))


@router.delete("/snapshots/{snapshot}", status_code=202, responses=ACCEPTED)
async def remove_snapshot(name: str, snapshot: str, triune: Services, run: Run) -> Response:
    """Remove one."""
    return accepted(await run.run(triune.snapshots.delete, name, snapshot))


@router.post("/snapshots/{snapshot}/restore", status_code=202, responses=ACCEPTED)
async def restore_snapshot(
    name: str,
    snapshot: str,
    triune: Services,
    run: Run,
    body: schemas.RestoreBody | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Put the instance back to it. Stopped before, stopped afterwards, unless it has the running state."""
    force = body is not None and body.force

    def work() -> Operation:
        require_match(triune, name, if_match)
        return triune.snapshots.restore(name, snapshot, force=force)

    return accepted(await run.run(work))


@router.post("/clone", status_code=202, responses=ACCEPTED)
async def clone_instance(
    name: str, body: schemas.CloneBody, triune: Services, run: Run, if_match: IfMatch = None
) -> Response:
    """Copy it under another name and identity; published ports stay with the original."""
    request = CloneRequest(name=name, new=body.name, snapshot=body.snapshot, start=body.start, timeout=body.timeout)

    def work() -> Operation:
        require_match(triune, name, if_match)
        return triune.cloner.clone(request)

    return accepted(await run.run(work))
