"""The daemon: one per data folder, on a unix socket, until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from triune.api.app import create_app
from triune.api.routes.images import forget_uploads
from triune.app import Settings, Triune
from triune.domain.errors import Conflict, Denied

log = logging.getLogger(__name__)

_BACKLOG = 512
_GRACE = 5
_HEAD = 10.0  # seconds for a request's head to come whole
_DESCRIPTORS = 16384  # enough for thousands of connections; some programs we start close all they may have one by one


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1, that closes a connection whose request's head does not come: each holds a descriptor."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        self._late = self.loop.call_later(_HEAD, transport.close)

    def data_received(self, data: bytes) -> None:
        """Some bytes came; the clock runs from the first byte of a head, or from the connection, to the head's end."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._in_time()
        elif self._late is None and data:
            self._late = self.loop.call_later(_HEAD, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended."""
        self._in_time()
        super().connection_lost(exc)

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """uvicorn's server without its ten ticks a second, and ending with status 0 on SIGTERM."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams
        self._exit: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Sleep until asked to end."""
        self._loop = asyncio.get_running_loop()
        self._exit = asyncio.Event()
        if not self.should_exit:
            await self._exit.wait()

    def stop(self) -> None:
        """Ask it to end, from any thread."""
        self.should_exit = True
        if self._loop is not None and self._exit is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._exit.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT or SIGTERM came; a second SIGINT does not wait for connections."""
        del frame
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: they would go on for ever."""
        self._end_streams()
        await super().shutdown(sockets)


load_settings = Settings.load


def serve(settings: Settings, *, pid_file: Path | None = None, wire: Callable[[Settings], Triune] = Triune) -> None:
    """Run the daemon in this process until it is asked to end.

    Raises Conflict("daemon_running") when another one has the data folder, Conflict("socket_in_use") when another one
    listens there, Denied when this user may not.
    """
    _allow_descriptors()
    with _only_one(settings.data):
        _require_free(settings.socket)
        with _written(pid_file):
            _run(wire(settings))


def _run(triune: Triune) -> None:
    try:
        forget_uploads(triune.settings.data)
        triune.start()
        _listen(triune)
    finally:
        log.info("ending")
        triune.close()


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_server(triune: Triune) -> Server:
    """The HTTP server of started services; run it with an open socket."""
    app = create_app(triune)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Patient,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=2**20,
        ws_per_message_deflate=False,
        # While a command does not read its input, we don't read the connection: pongs would not be seen.
        ws_ping_interval=None,
        timeout_graceful_shutdown=_GRACE,
    )
    return Server(config, app.state.opened.close)


def _listen(triune: Triune) -> None:
    path = triune.settings.socket
    listener = open_socket(path, triune.settings.group)
    made = path.stat().st_ino
    try:
        log.info("listening at %s", path)
        make_server(triune).run([listener])
    finally:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == made:
                path.unlink()


def open_socket(path: Path, group: str) -> socket.socket:
    """A listening unix socket, mode 0660, of the group where it exists. A stale one in its place is replaced.

    It is made under another name with mode 0600 and moved there when it is ready: nobody ever sees it half-made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(fresh))
        finally:
            os.umask(before)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(fresh, -1, grp.getgrnam(group).gr_gid)
        fresh.chmod(0o660)
        listener.listen(_BACKLOG)
        fresh.rename(path)
    except OSError as error:
        listener.close()
        fresh.unlink(missing_ok=True)
        raise Denied(
            "socket_denied",
            f"can't listen at {path}: {error.strerror}",
            hint="Run it as root, or set another socket: TRIUNE_SOCKET.",
        ) from None
    return listener


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Hold the data folder. A POSIX lock: unlike flock's, no child that inherits the file keeps it after our end."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o711)
        file = (data / "lock").open("a+")
    except OSError as error:
        raise Denied(
            "data_denied", f"can't use the data folder {data}: {error.strerror}", hint="Run the daemon as root."
        ) from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip()
            raise Conflict(
                "daemon_running",
                f"another Triune daemon{f' (process {pid})' if pid.isdigit() else ''} uses {data}",
                hint="Use that one, or end it first: systemctl stop triune, or kill " + (pid or "PID"),
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _require_free(path: Path) -> None:
    """Leave the socket of a daemon with another data folder alone; one that nobody listens at is ours to replace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except TimeoutError:
            pass  # it is there, and busy
        except OSError:
            return
    raise Conflict(
        "socket_in_use",
        f"another daemon listens at {path}",
        hint="End that one first, or set another socket: TRIUNE_SOCKET.",
    )


@contextlib.contextmanager
def _written(pid_file: Path | None) -> Iterator[None]:
    if pid_file is None:
        yield
        return
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    pid_file.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        pid_file.unlink(missing_ok=True)
