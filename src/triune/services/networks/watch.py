"""The thread that notices when the network was changed by others, and has it mended. It sleeps otherwise."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from triune.host import netlink

_LOG = logging.getLogger(__name__)
_RESTLESS = 5
_PAUSE_S = 5.0
_WATCHED_CHAINS = frozenset({"FORWARD", "INPUT", "DOCKER-USER"})
_IPTABLES_TABLES = frozenset({"filter", "nat", "mangle", "raw", "security"})
_PORT_DELAYS_S = (0.3, 1.0, 3.0, 8.0)


class Mended(Protocol):
    """What the watcher drives."""

    def ensure(self) -> list[str]:
        """Mend everything."""

    def port_joined(self, bridge: int, port: int, name: str) -> None:
        """Remember a port, at once."""

    def settle_ports(self) -> None:
        """Do what needs a port's MAC to be known."""

    def bridges(self) -> Mapping[int, str]:
        """Index and name of each bridge, as last seen."""

    def servers(self) -> Iterable[int]:
        """Pids of the name servers."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to gather events before acting, and how often to look without any. Seconds."""

    debounce: float
    check_every: float


class Watcher:
    """Runs until closed."""

    def __init__(self, networks: Mended, table: str, pace: Pace) -> None:
        self._networks = networks
        self._table = table
        self._pace = pace
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._sources = [netlink.rules_socket(), netlink.links_socket()]
        for source in self._sources:
            self._selector.register(source, selectors.EVENT_READ, partial(self._heard, source))
        self._changed = False
        self._harmed = False
        self._servers: dict[int, int] = {}
        self._port_checks: list[float] = []
        self._thread = threading.Thread(target=self._run, name="network-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._follow_servers()
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for a mending that is under way."""
        self._closing.set()
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=30)
        self._selector.close()
        for source in self._sources:
            source.close()
        for descriptor in [*self._servers.values(), self._wake]:
            os.close(descriptor)
        self._servers = {}

    def _run(self) -> None:
        mends: list[float] = []
        due = time.monotonic() + self._pace.check_every
        while not self._closing.is_set():
            self._wait(due)
            now = time.monotonic()
            if self._port_checks and now >= self._port_checks[0]:
                self._port_checks = [at for at in self._port_checks if at > now]
                self._guarded(self._networks.settle_ports)
            if self._changed or self._harmed:
                # More of the same is on its way; some of it may tell that it was our own doing.
                self._closing.wait(self._pace.debounce)
                self._read()
            if self._closing.is_set() or not (self._changed or self._harmed or now >= due):
                continue
            # Two programs that undo each other's work must not keep the host busy.
            mends = [at for at in mends if now - at < _PAUSE_S]
            if len(mends) >= _RESTLESS:
                _LOG.warning("the network was mended %d times within %.0f s; pausing", len(mends), _PAUSE_S)
                self._closing.wait(_PAUSE_S)
            self._changed = self._harmed = False
            if self._guarded(self._networks.ensure):
                mends.append(now)
            self._guarded(self._follow_servers)
            due = time.monotonic() + self._pace.check_every

    def _guarded(self, action: Callable[[], object]) -> object:
        try:
            return action()
        except Exception:
            # The thread is the network's guard: whatever went wrong now, it must be there next time.
            _LOG.exception("mending the network failed; trying again at the next change or check")
            return None

    def _wait(self, due: float) -> None:
        """Wait for an event or a time."""
        until = min([due, *self._port_checks])
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            key.data()

    def _read(self) -> None:
        for source in self._sources:
            self._heard(source)

    def _woken(self) -> None:
        os.eventfd_read(self._wake)

    def _heard(self, source: socket.socket) -> None:
        for change in netlink.received(source):
            match change:
                case netlink.RuleChange(table=self._table):
                    self._harmed = self._own_harmed(change, self._harmed)
                case netlink.RuleChange():
                    self._changed = self._matters(change) or self._changed
                case netlink.LinkChange():
                    self._changed = self._link_matters(change) or self._changed
                case netlink.Lost():
                    self._changed = True

    @staticmethod
    def _own_harmed(change: netlink.RuleChange, harmed: bool) -> bool:
        """Whether our own table has lost something, after this change. A removal that is followed by the table's
        return is our own replacement of it, and nobody's harm."""
        if change.removed:
            return True
        return harmed and change.what != "table"

    @staticmethod
    def _matters(change: netlink.RuleChange) -> bool:
        if change.what != "rule" or change.chain in _WATCHED_CHAINS:
            return True
        return change.table not in _IPTABLES_TABLES

    def _link_matters(self, change: netlink.LinkChange) -> bool:
        bridges = self._networks.bridges()
        if change.index in bridges:
            return change.gone or not change.up
        if change.master in bridges and not change.gone:
            self._networks.port_joined(change.master, change.index, change.name)
            now = time.monotonic()
            self._port_checks = [now + delay for delay in _PORT_DELAYS_S]
        return False

    def _follow_servers(self) -> None:
        """Hear of the end of each name server, which is no child of ours."""
        pids = set(self._networks.servers())
        for pid in set(self._servers) - pids:
            self._unfollow(pid)
        for pid in pids - set(self._servers):
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue
            self._servers[pid] = descriptor
            self._selector.register(descriptor, selectors.EVENT_READ, partial(self._server_ended, pid))

    def _server_ended(self, pid: int) -> None:
        self._unfollow(pid)
        self._changed = True

    def _unfollow(self, pid: int) -> None:
        descriptor = self._servers.pop(pid)
        self._selector.unregister(descriptor)
        os.close(descriptor)
