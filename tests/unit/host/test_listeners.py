"""Who listens where."""

from __future__ import annotations

import os
import socket

from hypothesis import given
from hypothesis import strategies as st

from triune.host.listeners import Listener, listeners, overlaps, owners, parse

TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 020000C0:0016 010000C0:9999 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4714 1
   1: 00000000000000000000000001000000:01BC 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4715 1
   2: 0000000000000000FFFF00000100007F:01BD 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4716 1
"""


def test_listeners_of_both_families() -> None:
    assert list(parse(TCP, "tcp", "0A")) == [Listener("tcp", "127.0.0.1", 8080, 4711), Listener("tcp", None, 22, 4712)]
    # ::1 takes nothing of IPv4.
    assert list(parse(TCP6, "tcp", "0A")) == [Listener("tcp", None, 443, 4714), Listener("tcp", "127.0.0.1", 445, 4716)]


def test_a_socket_of_our_own_is_found_with_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (mine,) = [one for one in listeners() if (one.protocol, one.port) == ("tcp", port)]
        assert mine.address == "127.0.0.1"
        assert f"(pid {os.getpid()})" in owners([mine])[mine.inode]


def test_overlap() -> None:
    assert overlaps(None, "127.0.0.1")
    assert overlaps("10.0.0.1", "10.0.0.1")
    assert not overlaps("10.0.0.1", "127.0.0.1")


@given(st.text(alphabet="0123456789ABCDEF: \n", max_size=300))
def test_nonsense_is_passed_over(text: str) -> None:
    list(parse("head\n" + text, "tcp", "0A"))
