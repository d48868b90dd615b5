"""The programs that serve on this host."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from triune.host.serving import serving


def test_a_socket_of_our_own_is_served_by_us() -> None:
    mine = Path("/proc/self/comm").read_text().strip()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        wanted = {f"{server.getsockname()[1]}/tcp", f"{datagrams.getsockname()[1]}/udp"}
        (found,) = [service for service in serving() if service.program == mine]
    assert wanted <= set(found.ports)
    assert found.memory is not None
    assert found.memory > 2**20, os.getpid()
    assert not wanted & {port for service in serving() for port in service.ports}
