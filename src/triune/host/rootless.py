"""The rootless Docker daemon of this host: where it is, and its way into our bridges.

It runs as a user of its own, in a user namespace and a network namespace that belongs to that, so it can't reach the
host's bridges itself. What only the host's root may do is done here: a veth pair leads from a bridge of the host to the
bridge of the same name in the daemon's namespace (veth(4), network_namespaces(7)), and both are one network.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed, Unreachable
from triune.host import net
from triune.host.run import run

SETUP = "triune setup --rootless-docker"
_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where such a daemon lives: its user, the folder that setup made, and the one of its socket."""

    user: str = "triune-docker"
    home: Path = Path("/var/lib/triune-docker")
    runtime: Path = Path("/run/triune-docker")

    @property
    def data(self) -> Path:
        """The user's own folder; what is beside it is root's, who would else write where the user may put links."""
        return self.home / "user"

    @property
    def socket(self) -> Path:
        """Where it takes orders."""
        return self.runtime / "docker.sock"

    @property
    def mark(self) -> Path:
        """The file that says that setup made it."""
        return self.home / "made-by-triune"

    @property
    def service(self) -> str:
        """Its unit, where systemd starts it."""
        return f"{self.user}.service"

    @property
    def unit(self) -> str:
        """The unit's file."""
        return f"/etc/systemd/system/{self.service}"

    @property
    def log(self) -> str:
        """What it says where systemd does not start it."""
        return f"/var/log/{self.user}.log"


PLACE = Place()


def installed(root: Path = Path("/")) -> bool:
    """Whether setup made one on this host, running or not."""
    return (root / PLACE.mark.relative_to("/")).exists()


def daemon(path: Path) -> int:
    """The pid of the process that listens on a unix socket (unix(7), SO_PEERCRED). Raises Unreachable."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(str(path))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError as error:
            raise Unreachable(
                "engine_unreachable", f"nobody answers on {path}: {error.strerror or error}", hint=f"Run: {SETUP}"
            ) from error
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def link_name(bridge: str) -> str:
    """What the veth pair of a bridge is called, at both of its ends."""
    return "tru" + hashlib.sha256(bridge.encode()).hexdigest()[:10]


def connect(bridge: str, pid: int) -> None:
    """Make the bridge here and the one of that name in the namespace of `pid` one network; mends what is wrong.

    Raises Failed("namespace_shared") where the process is in the host's own namespace.
    """
    if Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        raise Failed(
            "namespace_shared",
            f"the rootless Docker daemon (pid {pid}) is in the host's own network namespace",
            hint=f"Let it run as setup starts it: {SETUP}",
        )
    name = net.link_name(link_name(bridge))
    if _connected(name, bridge, pid):
        return
    net.delete_link(name)
    net.create_pair(name, name, pid)
    # It leads to all that others have: learning from it, a frame that comes back (hairpin) would move its sender there.
    _inside(pid, "ip", "link", "set", "dev", name, "master", net.link_name(bridge))
    _inside(pid, "bridge", "link", "set", "dev", name, "learning", "off")
    _inside(pid, "ip", "link", "set", "dev", name, "up")
    net.join(name, bridge)
    net.set_up(name)


def disconnect(bridge: str) -> None:
    """Take the pair away; gone is fine."""
    net.delete_link(link_name(bridge))


def _inside(pid: int, *argv: str) -> None:
    run(["nsenter", f"--net=/proc/{pid}/ns/net", *argv])


def _connected(name: str, bridge: str, pid: int) -> bool:
    here, there = _ends(name), _ends(name, pid)
    if here is None or there is None:
        return False
    # Numbers are each namespace's own: only those that name each other belong together.
    paired = (here["ifindex"], there["ifindex"]) == (there.get("link_index"), here.get("link_index"))
    up = all("UP" in row.get("flags", ()) for row in (here, there))
    return paired and up and here.get("master") == bridge == there.get("master")


def _ends(name: str, pid: int | None = None) -> dict[str, Any] | None:
    enter = () if pid is None else ("nsenter", f"--net=/proc/{pid}/ns/net")
    done = run([*enter, "ip", "-d", "-j", "link", "show", "dev", name], check=False)
    rows = json.loads(done.stdout) if done.status == 0 and done.stdout.strip() else []
    return dict(rows[0]) if rows else None
