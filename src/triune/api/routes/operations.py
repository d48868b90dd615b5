"""`/v1/operations`: long-running actions, running and ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from triune.api import pages, schemas, views
from triune.api.replies import Json
from triune.api.routes.common import Run, Services
from triune.api.streams import OperationStream, ThreadStream
from triune.app import Triune

router = APIRouter(prefix="/v1/operations", tags=["operations"])

_FILTERS = ("kind", "resource", "state")
_BATCH = 200
_LONGEST_WAIT = 300
# How often a waiting request looks whether its client is still there.
_SLICE = 5.0


@router.get("", response_model=schemas.OperationList)
async def list_operations(
    triune: Services,
    run: Run,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
    running: Annotated[bool, Query(description="Only those that have not ended")] = False,
    fields: pages.Fields = None,
    filtered: pages.Filter = None,
) -> Response:
    """Newest first; ended ones stay readable."""
    after = pages.decode_cursor(cursor, 1)
    selection = pages.Selection(fields, filtered, known=schemas.Operation.model_fields, keys=_FILTERS, key="id")
    rows = _newest(triune, after[0] if after else None, running, min(limit + 1, _BATCH))

    def work() -> dict[str, object]:
        return selection.page(rows, limit=limit, cursor=lambda row: (row["id"],))

    return Json(await run.run(work))


def _newest(triune: Triune, before: str | None, running: bool, batch: int) -> Iterator[dict[str, object]]:
    """Operations older than `before`, read some at a time: the filter may want few of many."""
    if running:
        found = triune.operations.list(running=True)
        yield from (views.operation(one) for one in found if before is None or one.id < before)
        return
    while found := triune.operations.list(limit=batch, before=before):
        yield from map(views.operation, found)
        before = found[-1].id


@router.get("/{operation}", response_model=schemas.Operation)
async def get_operation(operation: str, triune: Services, run: Run) -> Response:
    """One operation."""
    return Json(views.operation(await run.run(triune.operations.get, operation)))


@router.delete("/{operation}", status_code=202, response_model=schemas.Operation)
async def cancel_operation(operation: str, triune: Services, run: Run) -> Response:
    """Ask it to stop; it removes what it had made."""
    return Json(views.operation(await run.run(triune.operations.cancel, operation)), status_code=202)


@router.get("/{operation}/wait", response_model=schemas.Operation)
async def wait_for_operation(
    operation: str,
    request: Request,
    triune: Services,
    run: Run,
    timeout: Annotated[float, Query(ge=0, le=_LONGEST_WAIT, description="Seconds")] = 30.0,
) -> Response:
    """The operation once it has ended, or as it is after the time-out."""
    deadline = time.monotonic() + timeout
    while True:
        left = max(0.0, deadline - time.monotonic())
        found = await run.wait(triune.operations.wait, operation, min(left, _SLICE))
        if found.state.ended or left <= _SLICE or await request.is_disconnected():
            return Json(views.operation(found))


@router.get(
    "/{operation}/events",
    response_class=Response,
    responses={
        200: {"description": "Each change, the whole operation each time", "content": {"text/event-stream": {}}}
    },
)
async def operation_events(operation: str, request: Request, triune: Services, run: Run) -> Response:
    """The operation now and at each change until it has ended, as Server-Sent Events."""
    run.require_stream()
    await run.run(triune.operations.get, operation)
    return ThreadStream(OperationStream(triune, operation), run, request.app.state.opened, "text/event-stream")
