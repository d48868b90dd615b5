"""A new identity for a copy of a machine: host name, machine id, SSH host keys, random pool, clock.

One Perl program does it inside (`identity.pl`), in one of two ways:

- `apply`: started by the guest agent, for a copy that booted;
- `wait` and `tell`: started before a machine is saved, it waits on one of the command ports; each copy that is restored
  then needs a line on that port and no new process, which is quick where the CPU is emulated.

What the guest answers is not trusted: it is compared with what it must be.
"""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass
from importlib import resources

from triune.domain.errors import Failed
from triune.domain.names import instance_name
from triune.engines.kvm.agent import Agent

_ENTROPY = 64  # bytes
_MOST = 4096
_POLL = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a copy is to be. `hostname` None: the system has a name of its own, which stays.

    `was` is the name of what it was copied from, where that isn't the kernel's host name any more (for /etc/hosts).
    `grow`: let the root file system fill a disk that has become larger.
    """

    hostname: str | None
    machine_id: str
    was: str = ""
    grow: bool = False

    def orders(self) -> list[str]:
        """The words for the program, with fresh entropy and the time of now."""
        words = [f"entropy={secrets.token_hex(_ENTROPY)}", f"time={time.time():.6f}"]
        if self.hostname is not None:
            words.append(f"hostname={instance_name(self.hostname)}")
        if self.was:
            words.append(f"was={instance_name(self.was)}")
        if self.machine_id:
            words.append(f"machine_id={int(self.machine_id, 16):032x}")
        return [*words, "grow=1"] if self.grow else words


def program() -> bytes:
    """The Perl program."""
    return (resources.files("triune.engines.kvm") / "identity.pl").read_bytes()


def apply(agent: Agent, name: str, identity: Identity, *, timeout: float = 60) -> None:
    """Give a running machine its identity, through its agent. Raises Failed("identity_failed")."""
    token = secrets.token_hex(16)
    pid = agent.execute(["perl", "-", token, *identity.orders()], stdin=program(), capture=True)
    deadline = time.monotonic() + timeout
    while (done := agent.outcome(pid)) is None:
        if time.monotonic() > deadline:
            raise _failed(name, "it took too long")
        time.sleep(_POLL)
    _require_done(name, done[1] or done[2], token)


def wait(agent: Agent, port: str, token: str) -> int:
    """Let the program wait on a command port (its name); returns its process id."""
    return agent.execute(["perl", "-", token, f"wait=/dev/virtio-ports/{port}"], stdin=program())


def tell(path: str, name: str, token: str, identity: Identity, *, timeout: float = 30) -> None:
    """Give a restored machine its identity: `path` is the host's socket of the port where the program waits.

    Raises Failed("identity_failed").
    """
    deadline = time.monotonic() + timeout
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(timeout)
            stream.connect(path)
            stream.sendall(f"\n{token} {' '.join(identity.orders())}\n".encode())
            while not answer.endswith(b"\n") and len(answer) < _MOST:
                stream.settimeout(max(0.01, deadline - time.monotonic()))
                chunk = stream.recv(_MOST)
                if not chunk:
                    break
                answer += chunk
    except OSError as error:
        raise _failed(name, str(error)) from None
    _require_done(name, answer, token)


def _require_done(name: str, answer: bytes, token: str) -> None:
    last = answer.decode(errors="replace").strip().splitlines()[-1:]
    if last != [f"{token} done"]:
        said = "".join(char for char in "".join(last).removeprefix(token)[:200] if char.isprintable())
        raise _failed(name, f"it said {said.strip()!r}")


def _failed(name: str, why: str) -> Failed:
    return Failed(
        "identity_failed",
        f"{name!r} could not be given an identity of its own: {why}",
        hint=f"Its guest needs Perl; look inside: triune console {name}",
    )
