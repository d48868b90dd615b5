"""Descriptors above 1023, which select(2) does not take and a daemon with many clients has."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import subprocess
from collections.abc import Iterator

import pytest
from tests.patience import PATIENCE

from triune.engines.docker import commands
from triune.engines.docker.stream import RawStream
from triune.engines.kvm.frames import Decoder, encode
from triune.engines.kvm.pump import PumpSession

_HIGH = 1500


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * _HIGH:
        pytest.skip("this process may not open as many")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * _HIGH), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, the first with a high number."""
    near, far = socket.socketpair()
    high = socket.socket(fileno=fcntl.fcntl(near.fileno(), fcntl.F_DUPFD_CLOEXEC, _HIGH))
    near.close()
    return high, far


def test_a_stream_of_docker() -> None:
    near, far = pair()
    stream = RawStream(near, 200, None, b"")
    assert stream.recv(0.01) is None
    far.sendall(b"still there")
    assert stream.recv(PATIENCE) == b"still there"
    stream.close()
    assert stream.recv(0.01) == b""
    far.close()


def test_a_command_in_a_virtual_machine() -> None:
    near, far = pair()
    decoder = Decoder(b"token")
    decoder.feed(b"token")
    session = PumpSession(near, decoder, terminal=False, release=lambda: None, alive=lambda: True)
    far.sendall(encode(b"O", b"out") + encode(b"X", bytes([0, 0, 0, 7])))
    assert session.read() == (1, b"out")
    assert session.read() is None
    assert session.wait() == 7
    far.close()


def test_hanging_up_on_a_process() -> None:
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    low = os.pidfd_open(process.pid)
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    try:
        commands._end(process.pid, high)
        assert process.wait(PATIENCE) == -1
    finally:
        process.kill()
        for fd in (low, high):
            os.close(fd)
