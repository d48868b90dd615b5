"""Inside an instance: logs, commands and consoles."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from triune.api import sessions
from triune.api.calls import services
from triune.api.routes.common import Run, Services
from triune.api.schemas import CommandBody, ConsoleBody, TerminalBody
from triune.api.streams import Lines, Open, ThreadStream
from triune.domain.names import single_line
from triune.engines.base import Command, Session, Terminal

router = APIRouter(prefix="/v1/instances", tags=["inside"])


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
