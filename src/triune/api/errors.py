"""Every error as a problem document (RFC 9457): `application/problem+json`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from triune.api.replies import Json
from triune.domain.errors import Failed, Invalid, NotFound, TriuneError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:triune:error:"

_TITLES: Mapping[str, str] = {
    "Invalid": "The input is wrong",
    "NotFound": "There is no such thing",
    "Conflict": "It exists, is busy or is in use",
    "Stale": "It changed since it was read",
    "Denied": "Not allowed",
    "Unsupported": "This host or engine cannot do it",
    "Unreachable": "Something needed does not answer",
    "Cancelled": "It was cancelled",
    "Failed": "It was tried and failed",
}


class TooLarge(HTTPException):
    """The body is longer than the API takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request's body is longer than {limit} bytes")


def document(error: TriuneError, instance: str, status: int | None = None) -> dict[str, Any]:
    """The problem document of an error; `instance` is the request's path."""
    kind = error.kind
    found: dict[str, Any] = {
        "type": TYPE_PREFIX + error.code,
        "title": _TITLES.get(kind, "It failed"),
        "status": status or error.http_status,
        "detail": error.message,
        "instance": instance,
        "kind": kind,
        "code": error.code,
        "hint": error.hint,
    }
    if error.details:
        found["details"] = error.details
    return found


def reply(
    request: Request, error: TriuneError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The response that tells an error."""
    content = document(error, request.url.path, status)
    return Json(content, status_code=content["status"], headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make the app answer every error this way."""
    handlers: dict[Any, Any] = {
        TriuneError: _ours,
        RequestValidationError: _validation,
        HTTPException: _http,
        Exception: _unexpected,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _ours(request: Request, error: TriuneError) -> Response:
    return reply(request, error)


async def _validation(request: Request, error: RequestValidationError) -> Response:
    found = error.errors()
    if any(item.get("type") == "json_invalid" for item in found):
        problem = Invalid("bad_json", "the request's body is not valid JSON", hint="Send JSON; see docs/API.md.")
        return reply(request, problem, status=HTTPStatus.BAD_REQUEST)
    fields = [{"field": _field(item.get("loc", ())), "problem": str(item.get("msg", ""))} for item in found[:20]]
    first = fields[0] if fields else {"field": "", "problem": "it is wrong"}
    message = f"{first['field'] or 'the body'}: {_sentence(first['problem'])}"
    problem = Invalid("bad_request", message, hint="See /openapi.json or docs/API.md for the fields.", fields=fields)
    return reply(request, problem)


def _field(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location[1:])[:200]


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:300]


async def _http(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    status = error.status_code
    problem: TriuneError
    if status == HTTPStatus.NOT_FOUND:
        problem = NotFound("no_such_route", f"there is nothing at {path}", hint="See /openapi.json for what there is.")
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        problem = Invalid(
            "method_not_allowed", f"{request.method} is not possible at {path}", hint="See /openapi.json."
        )
    elif status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        problem = Invalid("body_too_large", str(error.detail), hint="Images are sent by PUT /v1/images.")
    elif status == HTTPStatus.BAD_REQUEST:
        problem = Invalid("bad_request", "the request could not be read", hint="Send JSON; see docs/API.md.")
    else:
        problem = Failed("http_error", _sentence(str(error.detail)), hint="See docs/API.md.")
    return reply(request, problem, status=status, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return reply(
        request,
        Failed(
            "internal",
            f"unexpected {type(error).__name__} in the daemon",
            hint="See the daemon's log; please report it.",
        ),
    )
