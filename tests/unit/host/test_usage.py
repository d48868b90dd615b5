"""Counters that the kernel keeps of a container."""

from __future__ import annotations

from triune.host import usage


def test_network_counters_leave_out_loopback() -> None:
    head = "Inter-|   Receive\n face |bytes\n"
    rows = "    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 100 1 0 0 0 0 0 0 200 2 0\n eth1:1 1 0 0 0 0 0 0 2 2\n"
    assert usage.network_bytes(head + rows) == (101, 202)
    assert usage.network_bytes("") == (0, 0)
