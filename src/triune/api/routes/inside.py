"""Inside an instance: logs, commands and consoles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Annotated

import anyio.from_thread
import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from triune.api import sessions, views
from triune.api.calls import services
from triune.api.replies import Json
from triune.api.routes.common import Run, Services
from triune.api.schemas import CommandBody, ConsoleBody, FileStat, TerminalBody
from triune.api.streams import Lines, Open, ThreadStream
from triune.domain.names import single_line
from triune.engines.base import Command, Session, Terminal

router = APIRouter(prefix="/v1/instances", tags=["inside"])

Inside = Annotated[str, Query(min_length=1, max_length=4096, description="A path inside, from its top: /etc/hosts")]


@router.get(
    "/{name}/logs",
    response_class=Response,
    responses={200: {"description": "What it wrote", "content": {"application/octet-stream": {}}}},
)
async def logs(
    name: str,
    request: Request,
    triune: Services,
    run: Run,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only the last lines")] = None,
    follow: Annotated[bool, Query(description="Go on as more comes")] = False,
) -> Response:
    """A container's output, a system's journal, a VM's serial console."""
    run.require_stream()
    source = Lines(lambda stop: triune.instances.logs(name, tail=tail, follow=follow, stop=stop))
    opened: Open = request.app.state.opened
    return ThreadStream(source, run, opened, "application/octet-stream")


@router.get("/{name}/files/stat", response_model=FileStat)
async def file_stat(name: str, triune: Services, run: Run, path: Inside) -> Response:
    """What is at a path inside, a symbolic link itself."""
    found = await run.run(triune.instances.file_stat, name, path)
    return Json(views.file_stat(path, found))


@router.get(
    "/{name}/files",
    response_class=Response,
    responses={200: {"description": "A tar stream", "content": {"application/x-tar": {}}}},
)
async def read_files(name: str, request: Request, triune: Services, run: Run, path: Inside) -> Response:
    """What is at a path inside, as a tar stream; with `/.` at its end, the folder's contents.

    The names in it are what the instance says: unpack it with care.
    """
    run.require_stream()
    source = Lines(lambda stop: takewhile(lambda _: not stop(), triune.instances.read_files(name, path)))
    return ThreadStream(source, run, request.app.state.opened, "application/x-tar")


@router.put(
    "/{name}/files",
    status_code=204,
    response_class=Response,
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
async def write_files(name: str, request: Request, triune: Services, run: Run, path: Inside) -> Response:
    """Unpack the tar stream of the body into the folder at a path inside, with the owners it names."""
    run.require_stream()
    body = request.stream()

    async def next_piece() -> bytes | None:
        return await anext(body, None)

    def pieces() -> Iterator[bytes]:
        while (piece := anyio.from_thread.run(next_piece)) is not None:
            if piece:
                yield piece

    await anyio.to_thread.run_sync(
        lambda: triune.instances.write_files(name, path, pieces()), limiter=run.streams, abandon_on_cancel=True
    )
    return Response(status_code=204)


@router.websocket("/{name}/exec")
async def execute(socket: WebSocket, name: str) -> None:
    """Run a command inside; frames as docs/API.md has them."""
    triune = services(socket)

    def open_session(body: CommandBody) -> Session:
        for key, value in body.env.items():
            single_line(key, "the name of an environment variable")
            single_line(value, f"the environment variable {key}")
        command = Command(
            argv=tuple(body.argv),
            env=body.env,
            user=body.user,
            cwd=body.cwd,
            terminal=None if body.terminal is None else _terminal(body.terminal),
        )
        return triune.instances.open_command(name, command)

    await sessions.serve(socket, CommandBody, open_session)


@router.websocket("/{name}/console")
async def console(socket: WebSocket, name: str) -> None:
    """Attach to its console; going away detaches."""
    triune = services(socket)
    await sessions.serve(
        socket, ConsoleBody, lambda body: triune.instances.open_console(name, _terminal(body.terminal))
    )


def _terminal(body: TerminalBody) -> Terminal:
    return Terminal(term=body.term, columns=body.columns, rows=body.rows)
