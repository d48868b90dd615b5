"""The serial console as a session, through libvirt's own console stream (as `virsh console`)."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from triune.domain.errors import Conflict
from triune.engines.base import Session, Terminal
from triune.engines.kvm.client import Client, library, not_running


class Console:
    """The `console` facet."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def open(self, name: str, terminal: Terminal) -> Session:
        """Attach. Raises Conflict("instance_not_running" | "console_busy")."""
        del terminal  # a serial line has no size
        domain = self._client.domain(name)
        with self._client.errors(name):
            if not domain.isActive():
                raise not_running(name)
            # A connection of its own: a stream that nobody reads must not hold the others up.
            connection = self._client.open()
        virt = library()
        try:
            stream = connection.newStream(0)
            connection.lookupByName(name).openConsole(None, stream, virt.VIR_DOMAIN_CONSOLE_SAFE)
        except virt.libvirtError as error:
            connection.close()
            if error.get_error_code() == virt.VIR_ERR_OPERATION_FAILED:
                raise Conflict(
                    "console_busy",
                    f"the console of {name!r} is in use or does not exist",
                    hint="End the other session (virsh console, virt-manager) first.",
                ) from error
            with self._client.errors(name):
                raise
        return ConsoleSession(connection, stream)


class ConsoleSession:
    """Bytes to and from the serial line."""

    def __init__(self, connection: Any, stream: Any) -> None:
        self._connection = connection
        self._stream = stream
        self._closed = threading.Event()

    def read(self) -> tuple[int, bytes] | None:
        """What the guest wrote, or None when it stopped or the session was closed."""
        virt = library()
        try:
            data = self._stream.recv(4096)
        except virt.libvirtError:
            return None
        return (1, data) if isinstance(data, bytes) and data else None

    def write(self, data: bytes) -> None:
        """Type it."""
        virt = library()
        view = memoryview(data)
        with contextlib.suppress(virt.libvirtError):
            while view and not self._closed.is_set():
                sent = self._stream.send(bytes(view[:4096]))
                view = view[max(0, sent) :]

    def close_stdin(self) -> None:
        """A serial line has no end of input."""

    def resize(self, columns: int, rows: int) -> None:
        """A serial line has no size."""

    def wait(self) -> int:
        """Always 0: a console has no exit code."""
        return 0

    def close(self) -> None:
        """Detach."""
        if self._closed.is_set():
            return
        self._closed.set()
        virt = library()
        with contextlib.suppress(virt.libvirtError):
            self._stream.abort()
        with contextlib.suppress(virt.libvirtError):
            self._connection.close()
