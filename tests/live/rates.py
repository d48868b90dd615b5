"""How fast TCP goes: a plain transfer between this host and a peer, in one file of the standard library.

rates.py send|receive ADDRESS PORT SECONDS   the peer's side; it prints nothing
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen
from typing import NamedTuple

CHUNK = 1 << 16


def peer(mode: str, address: str, port: str, seconds: str) -> None:
    """Send as fast as it goes for some seconds, or receive all."""
    with socket.create_connection((address, int(port)), timeout=20) as connection:
        until = time.monotonic() + float(seconds)
        if mode == "send":
            while time.monotonic() < until:
                connection.sendall(bytes(CHUNK))
        else:
            while connection.recv(CHUNK):
                pass


class Arrived(NamedTuple):
    """Bytes, and the seconds from the first to the last: an emulated guest takes its time to begin and to end."""

    total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bits/s."""
        return self.total * 8 / self.seconds


def upload(address: str, argv: Sequence[str]) -> Arrived:
    """What arrives from a peer, which `argv` starts; {port} in it is replaced."""
    with socket.create_server((address, 0)) as server, _started(server, argv) as process:
        connection, _ = server.accept()
        with connection:
            arrived = arriving(connection)
        assert process.wait(60) == 0
    return arrived


def download(address: str, argv: Sequence[str], seconds: float) -> float:
    """Bits/s that a peer takes."""
    with socket.create_server((address, 0)) as server, _started(server, argv):
        connection, _ = server.accept()
        with connection:
            return leaving(connection, seconds)


@contextmanager
def _started(server: socket.socket, argv: Sequence[str]) -> Iterator[Popen[bytes]]:
    server.settimeout(120)
    with Popen([word.replace("{port}", str(server.getsockname()[1])) for word in argv]) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def arriving(connection: socket.socket) -> Arrived:
    """All that comes."""
    assert connection.recv(1)
    total, began = 0, time.monotonic()
    last = began
    while data := connection.recv(CHUNK):
        total, last = total + len(data), time.monotonic()
    return Arrived(total, last - began)


def leaving(connection: socket.socket, seconds: float) -> float:
    """Bits/s sent, once it flows; little is left in the buffers, as they are small."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
    began = time.monotonic()
    warm, total, now = began + seconds / 3, 0, began
    while now < began + seconds * 4 / 3:
        connection.sendall(bytes(CHUNK // 4))
        before, now = now, time.monotonic()
        if now < warm:
            continue
        if before < warm:
            start = now
        else:
            total += CHUNK // 4
    return total * 8 / (now - start)


if __name__ == "__main__":
    peer(*sys.argv[1:])
