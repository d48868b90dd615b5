"""A cap on what a request may carry."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triune.api.errors import TooLarge

UPLOADS = re.compile(r"/v1/(images|volumes|instances/[^/]+/files)")
LIMIT = 8 * 2**20


class BodyLimit:
    """ASGI middleware: bodies longer than `LIMIT` are refused with 413, counted as they come.

    `UPLOADS` (with PUT) are exempt: they go to a file or an instance, piece by piece.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body counted."""
        if scope["type"] != "http" or (scope["method"] == "PUT" and UPLOADS.fullmatch(scope["path"])):
            await self._app(scope, receive, send)
            return
        told = _told_length(scope)
        got = 0

        async def counted() -> Message:
            nonlocal got
            if told > LIMIT:
                raise TooLarge(LIMIT)
            message = await receive()
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if got > LIMIT:
                    raise TooLarge(LIMIT)
            return message

        await self._app(scope, counted, send)


def _told_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:18])
    return 0
