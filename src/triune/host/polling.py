"""Waiting for descriptors by poll(2): unlike select(2) it takes numbers above 1023, which a busy daemon has."""

from __future__ import annotations

import select
from collections.abc import Iterable


def ready(read: Iterable[int], write: Iterable[int] = (), timeout: float | None = None) -> set[int]:
    """Those descriptors that can be read or written, or have failed or ended; empty after `timeout` seconds."""
    poller = select.poll()
    wanted: dict[int, int] = {}
    for fd in read:
        wanted[fd] = wanted.get(fd, 0) | select.POLLIN
    for fd in write:
        wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
    for fd, mask in wanted.items():
        poller.register(fd, mask)
    return {fd for fd, _ in poller.poll(None if timeout is None else max(0.0, timeout) * 1000)}
