"""What the routes share."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header
from starlette.requests import HTTPConnection

from triune.api import schemas, views
from triune.api.calls import Calls, calls, services
from triune.api.replies import Json
from triune.app import Triune
from triune.domain.errors import Stale
from triune.domain.operation import Operation


async def _services(connection: HTTPConnection) -> Triune:
    return services(connection)


async def _calls(connection: HTTPConnection) -> Calls:
    return calls(connection)


# Coroutines: a function would be run in a thread, which takes longer than what it does.
Services = Annotated[Triune, Depends(_services)]
Run = Annotated[Calls, Depends(_calls)]
IfMatch = Annotated[str | None, Header(max_length=1000, description="The ETag that the instance must still have")]

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.Operation, "description": "The operation that does it; see Location"}
}


def accepted(operation: Operation) -> Json:
    """202, where to look, and the operation."""
    headers = {"Location": f"/v1/operations/{operation.id}"}
    return Json(views.operation(operation), status_code=202, headers=headers)


def require_match(triune: Triune, name: str, if_match: str | None) -> None:
    """Raise Stale unless the instance has one of these ETags. Blocks."""
    if if_match is None or if_match.strip() == "*":
        return
    now = views.etag(triune.instances.get(name), triune.instances.limits(name), triune.instances.intent(name))
    if now not in {tag.strip() for tag in if_match.split(",")}:
        raise Stale(
            "stale",
            f"{name} was changed since you read it",
            hint=f"Read it again and repeat: triune show {name}",
            etag=now,
        )
