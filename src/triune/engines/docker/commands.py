"""Run commands inside a running container (Docker's exec)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from triune.domain.errors import Conflict, Failed, TriuneError, Unsupported
from triune.domain.instance import State
from triune.domain.names import single_line
from triune.engines.base import Command, Session
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described, describe, not_running, state_of
from triune.engines.docker.frames import STDOUT, Demultiplexer
from triune.engines.docker.stream import RawStream
from triune.host import polling

_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/zsh", "/bin/ash", "/bin/dash", "/bin/sh", "/busybox/sh", "/usr/bin/sh")
# API 1.42 takes the terminal's size before the command runs; older ones only afterwards.
_SIZE_AT_CREATION = (1, 42)
_HANGUP_GRACE = 0.5
_EXIT_CODE_WAIT = 10.0
_START_WAIT = 2.0
_KILLED = 137
_CANNOT_RUN = 126
_NOT_FOUND = 127
_END_OF_INPUT = b"\x04"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ExecCommands:
    """The commands facet."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def open(self, name: str, command: Command) -> Session:
        """Start it. Raises Conflict("instance_not_running", "instance_paused"), Unsupported("no_shell")."""
        found = describe(self._client, name)
        state = state_of(str(found["State"].get("Status", "")))
        if state is not State.RUNNING:
            raise not_running(name, state)
        container = str(found["Id"])
        body = self._body(container, command)
        cwd = command.cwd or found["Config"].get("WorkingDir") or "/"
        variables = {**_variables(found["Config"].get("Env") or ()), **command.env}
        places = programs(body["Cmd"][0], variables.get("PATH", _DEFAULT_PATH), cwd)
        try:
            exec_id = str(self._create(container, body)["Id"])
        except Conflict as error:
            # It ended since it was looked at.
            raise not_running(name, State.STOPPED) from error
        stream = self._client.stream(
            "POST", f"/exec/{exec_id}/start", body={"Detach": False, "Tty": body["Tty"]}, hijack=True
        )
        session = ExecSession(self._client, stream, exec_id, container, places, tty=bool(body["Tty"]))
        if command.terminal is not None and "ConsoleSize" not in body:
            session.resize(command.terminal.columns, command.terminal.rows)
        return session

    def _create(self, container: str, body: dict[str, Any]) -> dict[str, Any]:
        # The SDK's own call takes the command as text or list, but knows no ConsoleSize.
        def call(api: Any) -> dict[str, Any]:
            answer = api._post_json(api._url("/containers/{0}/exec", container), data=body)
            result: dict[str, Any] = api._result(answer, True)
            return result

        return self._client.act(call)

    def _body(self, container: str, command: Command) -> dict[str, Any]:
        env = dict(command.env)
        if command.terminal is not None:
            env.setdefault("TERM", command.terminal.term)
        body: dict[str, Any] = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": command.terminal is None,
            "Tty": command.terminal is not None,
            "Cmd": list(command.argv) or [self._shell(container)],
            "Env": [f"{single_line(key, 'a variable')}={value}" for key, value in env.items()],
            "User": single_line(command.user or "", "the user"),
            "WorkingDir": single_line(command.cwd or "", "the working directory"),
        }
        if command.terminal is not None and self._client.api_version >= _SIZE_AT_CREATION:
            body["ConsoleSize"] = [command.terminal.rows, command.terminal.columns]
        return body

    def _shell(self, container: str) -> str:
        """The best shell of the container's own files."""
        for path in _SHELLS:
            if _exists(self._client, container, path):
                return path
        raise Unsupported(
            "no_shell",
            "the image of this container has no shell",
            hint="Run one of its own programs: triune exec NAME -- PROGRAM",
        )


class StreamSession:
    """The common part of exec and attach: a two-way stream, multiplexed unless a terminal is behind it."""

    def __init__(self, stream: RawStream, *, tty: bool) -> None:
        self._stream = stream
        self._frames = None if tty else Demultiplexer()
        self._ready: deque[tuple[int, bytes]] = deque()
        self._closed = threading.Event()

    def read(self) -> tuple[int, bytes] | None:
        """Return the next (stream, data), or None at the end."""
        while not self._ready:
            data = self._stream.recv()
            if not data:
                return None
            if self._frames is None:
                return STDOUT, data
            self._ready.extend(self._frames.feed(data))
        return self._ready.popleft()

    def write(self, data: bytes) -> None:
        """Write all of it to stdin; dropped once nobody reads it."""
        self._stream.send(data)


class ExecSession(StreamSession):
    """A running command."""

    def __init__(
        self,
        client: DockerClient,
        stream: RawStream,
        exec_id: str,
        container: str,
        places: Sequence[str],
        *,
        tty: bool,
    ) -> None:
        super().__init__(stream, tty=tty)
        self._client = client
        self._exec_id = exec_id
        self._container = container
        self._places = places
        self._tty = tty

    def close_stdin(self) -> None:
        """Say that stdin has ended; on a terminal that is Ctrl-D, since Docker takes an end there for a hang-up."""
        if self._tty:
            self._stream.send(_END_OF_INPUT)
        else:
            self._stream.half_close()

    def resize(self, columns: int, rows: int) -> None:
        """Change the terminal's size; ignored without a terminal, and once the command has ended."""
        if not self._tty:
            return
        for pause in (0.01, 0.02, 0.05, 0.1, 0.2, 0):
            try:
                self._client.act(lambda api: api.exec_resize(self._exec_id, height=rows, width=columns))
            except TriuneError:
                # The terminal does not exist before the runtime has made it, which may take a moment.
                time.sleep(pause)
            else:
                return

    def wait(self) -> int:
        """The exit code. Raises Failed("exit_code_unknown") where Docker does not tell it."""
        deadline = time.monotonic() + _EXIT_CODE_WAIT
        pause = 0.005
        while True:
            found = self._inspect()
            if not found.get("Running") and found.get("ExitCode") is not None:
                return self._exit_code(found)
            if time.monotonic() > deadline:
                if self._closed.is_set():
                    return _KILLED
                raise Failed(
                    "exit_code_unknown",
                    "Docker does not tell how the command ended",
                    hint="It may still run: see with: docker top NAME",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.2)

    def _exit_code(self, found: Described) -> int:
        """Docker 20.10 says 126 also for a program that is not there; a shell, and newer ones, say 127."""
        code = int(found["ExitCode"])
        if code == _CANNOT_RUN and not found.get("Pid"):
            with suppress(TriuneError):
                if not any(_exists(self._client, self._container, place) for place in self._places):
                    return _NOT_FOUND
        return code

    def close(self) -> None:
        """Hang up: the command gets SIGHUP and, half a second later, SIGKILL. Docker itself would let it run on."""
        if self._closed.is_set():
            return
        self._closed.set()
        with suppress(TriuneError, OSError):
            self._hang_up()
        self._stream.close()

    def _inspect(self) -> Described:
        found: Described = self._client.read(lambda api: api.exec_inspect(self._exec_id))
        return found

    def _pid(self) -> int | None:
        """The command's number on this host, waiting until it has one; None once it has ended."""
        deadline = time.monotonic() + _START_WAIT
        while True:
            found = self._inspect()
            pid = int(found.get("Pid") or 0)
            if not found.get("Running") or time.monotonic() > deadline:
                return None
            if pid > 1:
                return pid
            time.sleep(0.02)

    def _hang_up(self) -> None:
        pid = self._pid()
        if pid is None:
            return
        handle = os.pidfd_open(pid)
        try:
            # The handle pins the process; only now is it sure that the number has not passed to another one.
            again = self._inspect()
            if again.get("Running") and again.get("Pid") == pid and _belongs(pid, self._container):
                _end(pid, handle)
        finally:
            os.close(handle)


def programs(program: str, path: str, cwd: str) -> list[str]:
    """Where the runtime looks for a program, inside."""
    if "/" in program:
        return [str(PurePosixPath(cwd) / program)]
    return [str(PurePosixPath(folder) / program) for folder in path.split(":") if folder]


def _variables(env: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (entry.partition("=") for entry in env)}


def _exists(client: DockerClient, container: str, path: str) -> bool:
    def call(api: Any) -> bool:
        # The SDK has no call for this request's HEAD form, which tells without sending the file.
        url = api._url("/containers/{0}/archive", container)
        return bool(api.head(url, params={"path": path}, timeout=api.timeout).status_code == HTTPStatus.OK)

    return client.read(call)


def _belongs(pid: int, container: str) -> bool:
    """Whether the process is in the container's control group; also false where Docker's pids are not ours."""
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def _end(pid: int, handle: int) -> None:
    _signal(pid, handle, signal.SIGHUP)
    if not polling.ready([handle], timeout=_HANGUP_GRACE):
        _signal(pid, handle, signal.SIGKILL)
        polling.ready([handle], timeout=_HANGUP_GRACE)


def _signal(pid: int, handle: int, number: signal.Signals) -> None:
    """To its whole process group where it leads one (the runtime makes it so), as a terminal's hang-up would."""
    if os.getpgid(pid) == pid:
        os.killpg(pid, number)
    else:
        signal.pidfd_send_signal(handle, number)
