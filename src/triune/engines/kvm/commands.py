"""Commands inside a virtual machine: through the pump on a virtio-serial port, else through the guest agent alone."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, TriuneError, Unsupported
from triune.engines.base import Command, Session
from triune.engines.kvm import folders, inventory
from triune.engines.kvm import mark as marks
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import Client, apart, library, not_running
from triune.engines.kvm.polled import PolledSession
from triune.engines.kvm.pump import PumpSession, greet, orders
from triune.engines.kvm.spec import EXEC_PORT, Files

_WAIT_FOR_PORT = 5.0
_WAIT_EMULATED = 20.0  # the shortest command takes seconds where the host's cores are busy
_PAUSE = 0.2
_GREETING = 15.0  # an emulated guest on a busy host needs seconds to start Perl


class Commands:
    """The `commands` facet."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir
        self._ports = Ports()

    @apart
    def open(self, name: str, command: Command) -> Session:
        """Start it.

        Raises Conflict("instance_not_running" | "instance_paused" | "exec_ports_busy"), Unsupported("no_guest_agent").
        """
        domain = self._client.domain(name)
        with self._client.errors(name):
            if not domain.isActive():
                raise not_running(name)
            if domain.state(0)[0] == library().VIR_DOMAIN_PAUSED:
                raise Conflict("instance_paused", f"{name!r} is paused", hint=f"Let it go on: triune resume {name}")
            root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - from libvirt
        inherited = _environment(folders.of(root, self._state_dir))
        agent = Agent(self._client, domain, name)
        paths = _exec_ports(root)
        if paths:
            request = orders(command, inherited)
            emulated = root.get("type") != "kvm"
            deadline = time.monotonic() + (_WAIT_EMULATED if emulated else _WAIT_FOR_PORT)
            # libvirt gives an agent five seconds to say that it is there: too few for one whose host's cores are busy.
            mark = marks.read(root)
            expected = inventory.agent_connected(root) or (mark is not None and mark.agent)
            late = deadline if emulated and expected else 0.0
            terminal = command.terminal is not None
            session = self._through_port(name, agent, paths, request, deadline, late, terminal=terminal)
            if session is not None:
                return session
        return _through_agent(name, agent, command, inherited)

    def _through_port(
        self,
        name: str,
        agent: Agent,
        paths: Mapping[str, str],
        request: bytes,
        deadline: float,
        late: float,
        *,
        terminal: bool,
    ) -> Session | None:
        """A session, or None when the guest has no Perl; a free port is waited for until the deadline, and an agent
        that does not answer until it is `late`. The pump does nothing before it has its orders."""
        tried: set[str] = set()
        while True:
            port = self._ports.take(paths, tried, deadline)
            if port is None:
                raise Conflict(
                    "exec_ports_busy",
                    f"all {len(paths)} command sessions of {name!r} are in use",
                    hint=f"Wait for one to end, or use: triune console {name}",
                )
            try:
                started = self._start(agent, port, paths[port], request, terminal=terminal)
            except Unsupported:
                self._ports.give(paths[port])
                if time.monotonic() >= late:
                    raise
                time.sleep(_PAUSE)
                continue
            except BaseException:
                self._ports.give(paths[port])
                raise
            if started is not None:
                return started
            self._ports.give(paths[port])
            if not _has_perl(agent):
                return None
            tried.add(port)

    def _start(self, agent: Agent, port: str, path: str, request: bytes, *, terminal: bool) -> PumpSession | None:
        """Run the pump on one port; None when it does not come up there (port held by another, or no Perl)."""
        token = secrets.token_hex(16)
        program = (resources.files("triune.engines.kvm") / "pump.pl").read_bytes()
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(2)
            stream.connect(path)
            pid = agent.execute(["perl", "-", f"/dev/virtio-ports/{port}", token], stdin=program)
            decoder = _greet_while_alive(stream, agent, pid, token.encode())
            if decoder is None:
                stream.close()
                return None
            stream.sendall(request)
        except Failed:
            stream.close()
            return None  # the agent could not start Perl
        except OSError:
            stream.close()
            return None
        except BaseException:
            stream.close()
            raise
        return PumpSession(
            stream,
            decoder,
            terminal=terminal,
            release=lambda: self._ports.give(path),
            alive=lambda: _pump_alive(agent, pid),
        )


def _greet_while_alive(stream: socket.socket, agent: Agent, pid: int, token: bytes) -> Any:
    """The decoder after the greeting, or None once the pump has ended without one."""
    try:
        return greet(stream, token, 1.0)
    except TimeoutError:
        pass
    deadline = time.monotonic() + _GREETING
    while time.monotonic() < deadline:
        if agent.outcome(pid) is not None:
            return None
        with contextlib.suppress(TimeoutError):
            return greet(stream, token, 1.0)
    return None


def _pump_alive(agent: Agent, pid: int) -> bool:
    """Whether the pump still runs. A guest that cannot answer now (paused, busy) keeps its sessions."""
    try:
        return agent.outcome(pid) is None
    except Failed:
        return False  # the agent does not know that process: the guest was rebooted
    except TriuneError:
        return True


def _has_perl(agent: Agent) -> bool:
    try:
        pid = agent.execute(["perl", "-e", "exit 0"])
    except Failed:
        return False
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        done = agent.outcome(pid)
        if done is not None:
            return done[0] == 0
        time.sleep(0.05)
    return False


def _environment(folder: Path | None) -> Mapping[str, str]:
    """What the instance was launched with; nothing for an adopted one."""
    if folder is None:
        return {}
    try:
        found: dict[str, str] = json.loads(Files(folder=folder).environment.read_text())
    except FileNotFoundError:
        return {}
    return found


def _exec_ports(root: ET.Element) -> dict[str, str]:
    """Our ports of a running domain: name → host socket."""
    ports = {}
    for channel in root.iterfind("devices/channel"):
        target, source = channel.find("target"), channel.find("source")
        name = target.get("name", "") if target is not None else ""
        if name.startswith(EXEC_PORT) and source is not None and source.get("path"):
            ports[name] = source.get("path", "")
    return ports


def _through_agent(name: str, agent: Agent, command: Command, inherited: Mapping[str, str]) -> Session:
    agent.ping(timeout=3)
    if command.terminal is not None:
        raise Unsupported(
            "no_exec_terminal",
            f"{name!r} has no Triune command ports or no Perl, so a command gets no terminal there",
            hint=f"Use: triune console {name}, or run the command without a terminal",
        )
    argv = list(command.argv) or ["/bin/sh"]
    if command.cwd is not None:
        argv = ["env", "-C", command.cwd, "--", *argv]
    if command.user is not None:
        argv = ["runuser", "-u", command.user, "--", *argv]
    env = [f"{key}={value}" for key, value in {**inherited, **command.env}.items()]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return PolledSession(agent, argv, [path, *env] if env else [])


class Ports:
    """Which ports this process has in use. QEMU serves one connection per port and leaves others unanswered."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._used: set[str] = set()

    def take(self, paths: Mapping[str, str], tried: set[str], deadline: float) -> str | None:
        """A free port's name, waiting until `deadline`; None when there is none."""
        with self._free:
            while True:
                for port, path in sorted(paths.items()):
                    if port not in tried and path not in self._used:
                        self._used.add(path)
                        return port
                left = deadline - time.monotonic()
                if left <= 0 or len(tried) == len(paths):
                    return None
                self._free.wait(left)

    def give(self, path: str) -> None:
        """Free it."""
        with self._free:
            self._used.discard(path)
            self._free.notify_all()
