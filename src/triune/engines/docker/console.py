"""Attach to a container's main process."""

from __future__ import annotations

from triune.domain.errors import NotFound, TriuneError
from triune.domain.instance import State
from triune.engines.base import Session, Terminal
from triune.engines.docker.client import DockerClient
from triune.engines.docker.commands import StreamSession
from triune.engines.docker.containers import describe, not_found, not_running, state_of
from triune.engines.docker.stream import RawStream

_STREAMS = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}


class MainConsole:
    """The console facet. Typing reaches the process only when it was launched with `stdin=true`."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def open(self, name: str, terminal: Terminal) -> Session:
        """Attach. Raises Conflict("instance_not_running")."""
        found = describe(self._client, name)
        state = state_of(str(found["State"].get("Status", "")))
        if state is not State.RUNNING:
            raise not_running(name, state)
        container = str(found["Id"])
        tty = bool(found["Config"].get("Tty"))
        stream = self._client.stream(
            "POST", f"/containers/{container}/attach", _STREAMS, hijack=True, missing=not_found(name)
        )
        session = ConsoleSession(self._client, stream, container, tty=tty)
        session.resize(terminal.columns, terminal.rows)
        return session


class ConsoleSession(StreamSession):
    """An attached console; closing detaches and leaves the container alone."""

    def __init__(self, client: DockerClient, stream: RawStream, container: str, *, tty: bool) -> None:
        super().__init__(stream, tty=tty)
        self._client = client
        self._container = container
        self._tty = tty

    def close_stdin(self) -> None:
        """Nothing: Docker would detach, and others may go on typing."""

    def resize(self, columns: int, rows: int) -> None:
        """Change the terminal's size; ignored without a terminal, and once it has ended."""
        if not self._tty:
            return
        try:
            self._client.act(lambda api: api.resize(self._container, height=rows, width=columns))
        except TriuneError:
            return

    def wait(self) -> int:
        """The main process' exit code; 0 when it goes on without us."""
        try:
            found = self._client.read(lambda api: api.inspect_container(self._container))
        except NotFound:
            return 0
        return 0 if found["State"].get("Running") else int(found["State"].get("ExitCode") or 0)

    def close(self) -> None:
        """Detach."""
        self._stream.close()
