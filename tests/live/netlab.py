"""A host of its own for network tests: a private network namespace, guests on veth pairs, and an outside.

Everything that flushes firewalls happens in there, so the real host's rules are never touched. Other tests of the same
run are left alone: only the thread that enters is moved, and moved back.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.patience import until
from triune.domain.network import Nic

PROBE = Path(__file__).with_name("netprobe.py")
OUTSIDE = "tnet-outside"
UPLINK_HOST = "198.51.100.1"
UPLINK_OUTSIDE = "198.51.100.2"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def sh(*argv: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout


@contextmanager
def private_host() -> Iterator[None]:
    """Move this thread, and what it starts, into a fresh network namespace with an uplink to `OUTSIDE`."""
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        assert _LIBC.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            sh("ip", "link", "set", "lo", "up")
            sh("ip", "netns", "del", OUTSIDE, check=False)
            sh("ip", "netns", "add", OUTSIDE)
            sh("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE)
            sh("ip", "addr", "add", f"{UPLINK_HOST}/24", "dev", "uplink")
            sh("ip", "link", "set", "uplink", "up")
            sh("ip", "-n", OUTSIDE, "link", "set", "lo", "up")
            sh("ip", "-n", OUTSIDE, "addr", "add", f"{UPLINK_OUTSIDE}/24", "dev", "eth0")
            sh("ip", "-n", OUTSIDE, "link", "set", "eth0", "up")
            sh("ip", "route", "add", "default", "via", UPLINK_OUTSIDE)
            yield
        finally:
            sh("ip", "netns", "del", OUTSIDE, check=False)
            assert _LIBC.setns(home.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


class Side:
    """A namespace to run probes in; None is the private host itself."""

    def __init__(self, namespace: str | None) -> None:
        self.namespace = namespace
        self._servers: list[subprocess.Popen[str]] = []

    def argv(self, *words: str) -> list[str]:
        return [*(["ip", "netns", "exec", self.namespace] if self.namespace else []), *words]

    def probe(self, *words: str) -> str:
        return sh(*self.argv(sys.executable, str(PROBE), *words)).strip()

    def can(self, protocol: str, address: str, port: int) -> str | None:
        """What answers, or None."""
        argv = self.argv(sys.executable, str(PROBE), protocol, address, str(port))
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def ask(self, kind: str, server: str, text: str) -> list[str]:
        found: list[str] = json.loads(self.probe(kind, server, text))["answers"]
        return found

    def serve(self, name: str, port: int) -> None:
        argv = self.argv(sys.executable, str(PROBE), "serve", name, str(port))
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self._servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            server.communicate()
        self._servers = []


class Guest(Side):
    """An instance as the network sees it: a namespace with one card on the bridge, configured by DHCP."""

    def __init__(self, name: str, bridge: str, mac: str) -> None:
        super().__init__(f"tnet-{name}")
        self.name = name
        self.port = f"tnet-{name}"[:15]
        assert self.namespace is not None
        # The kernel takes a namespace apart when it has time, its links only then.
        sh("ip", "link", "del", self.port, check=False)
        sh("ip", "netns", "del", self.namespace, check=False)
        sh("ip", "netns", "add", self.namespace)
        sh("ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        sh("ip", "-n", self.namespace, "link", "set", "eth0", "address", mac)
        sh("ip", "link", "set", self.port, "master", bridge, "up")
        sh("ip", "-n", self.namespace, "link", "set", "lo", "up")
        sh("ip", "-n", self.namespace, "link", "set", "eth0", "up")

    def dhcp(self, hostname: str = "") -> dict[str, Any]:
        """Ask for a lease and use it."""
        assert self.namespace is not None
        lease: dict[str, Any] = json.loads(self.probe("dhcp", "eth0", *([hostname] if hostname else [])))
        sh("ip", "-n", self.namespace, "addr", "replace", f"{lease['address']}/{lease['mask']}", "dev", "eth0")
        sh("ip", "-n", self.namespace, "route", "replace", "default", "via", lease["router"])
        return lease

    def close(self) -> None:
        super().close()
        assert self.namespace is not None
        # The kernel takes a namespace apart when it has time, its links only then.
        sh("ip", "link", "del", self.port, check=False)
        sh("ip", "netns", "del", self.namespace, check=False)


def guest_of(name: str, nic: Nic) -> Guest:
    return Guest(name, nic.network.bridge, nic.mac)


def eventually(what: Callable[[], Any], within: float = 3.0) -> float:
    """Wait until `what()` is true; returns the seconds it took."""
    return until(what, f"not within {within} s", within=within, pause=0.05)
