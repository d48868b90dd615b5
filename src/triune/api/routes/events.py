"""`/v1/events`: what happens, as Server-Sent Events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from triune.api.routes.common import Run, Services
from triune.api.streams import EventStream, ThreadStream

router = APIRouter(prefix="/v1/events", tags=["events"])


@router.get(
    "",
    response_class=Response,
    responses={200: {"description": "One message for each event", "content": {"text/event-stream": {}}}},
)
async def events(
    request: Request,
    triune: Services,
    run: Run,
    since: Annotated[
        int | None, Query(ge=0, le=2**53, description="Go on after this number; 0: with all that is kept")
    ] = None,
    kind: Annotated[str | None, Query(alias="type", max_length=100, description="Only types that begin so")] = None,
    subject: Annotated[str | None, Query(max_length=300, description="Only of this thing")] = None,
    follow: Annotated[bool, Query(description="False: end with what is kept")] = True,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Response:
    """Events with numbers that grow. A message of event type `resync` says that some were lost: list anew."""
    run.require_stream()
    if since is None and last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
        since = int(last_event_id)
    source = EventStream(triune, since=since, kind=kind, subject=subject, follow=follow)
    return ThreadStream(source, run, request.app.state.opened, "text/event-stream")
