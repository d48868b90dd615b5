"""Speaks to liblxc: reads by its own binding, everything that changes processes by the lxc-* tools.

The binding's reads (state, init process, addresses, list) take well under a millisecond. Its `wait`, `stop`,
`shutdown` and `freeze` hold the interpreter lock for their whole length (with cgroup v2 a freeze waits, without an end,
for every process that hangs in the kernel), and its `start` makes the container's monitor a fork of this process, with
its memory and descriptors: so those go through the tools, by argv.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from triune.domain.errors import Conflict, Failed, NotFound, Unsupported
from triune.domain.instance import State
from triune.host import bindings
from triune.host.run import Result, run

STATES = {
    "STOPPED": State.STOPPED,
    "STARTING": State.RUNNING,
    "RUNNING": State.RUNNING,
    "STOPPING": State.RUNNING,
    "ABORTING": State.RUNNING,
    "FREEZING": State.PAUSED,
    "FROZEN": State.PAUSED,
    "THAWED": State.RUNNING,
}
# "lxc-start NAME 20250101120000.123 ERROR    conf - ../src/lxc/conf.c:lxc_setup:42 - Text"
_LOG_LINE = re.compile(r"\S+ \S+ \d+\.\d+ ERROR\s+\S+ - \S+ - (.*)")


class Client:
    """All containers below one LXC path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._module: ModuleType | None = None
        self._loading = threading.Lock()

    def binding(self) -> ModuleType:
        """The binding. Raises Unsupported("lxc_binding_missing")."""
        with self._loading:
            if self._module is None:
                try:
                    self._module = bindings.load("lxc")
                except ImportError:
                    raise Unsupported(
                        "lxc_binding_missing",
                        "liblxc's Python binding is not installed for this Python",
                        hint="Run: apt-get install python3-lxc lxc",
                    ) from None
            return self._module

    def version(self) -> str:
        """Of liblxc."""
        return str(self.binding().version)

    def folder(self, name: str) -> Path:
        """Where a container is."""
        return self.path / name

    def active(self) -> set[str]:
        """Names of containers that have a monitor, so are not stopped."""
        return set(self.binding().list_containers(active=True, defined=False, config_path=str(self.path)))

    def state(self, name: str) -> State:
        """The state now; STOPPED for one that is not there."""
        return STATES.get(self.raw_state(name), State.ERROR)

    def raw_state(self, name: str) -> str:
        """liblxc's own word for the state."""
        return str(self._container(name).state)

    def init_pid(self, name: str) -> int | None:
        """The container's first process as the host numbers it."""
        pid = int(self._container(name).init_pid)
        return pid if pid > 0 else None

    def addresses(self, name: str) -> tuple[str, ...]:
        """Addresses of its interfaces, without loopback and link-local ones."""
        found = self._container(name).get_ips() or ()
        return tuple(text for text in map(str, found) if not text.startswith(("127.", "fe80:", "::1")))

    def config(self, name: str, key: str) -> list[str]:
        """All values of a configuration item, includes followed; empty where it has none."""
        try:
            found = self._container(name).get_config_item(key)
        except KeyError:
            return []
        values = found if isinstance(found, list) else str(found or "").splitlines()
        return [str(value) for value in values if str(value)]

    def _container(self, name: str) -> Any:
        return self.binding().Container(name, str(self.path))

    def require(self, name: str) -> Path:
        """The container's folder. Raises NotFound("instance_not_found")."""
        folder = self.folder(name)
        if "/" in name or name in ("", ".", "..") or not (folder / "config").is_file():
            raise NotFound(
                "instance_not_found", f"there is no system container {name!r}", hint="See what there is: triune list"
            )
        return folder

    def require_running(self, name: str) -> int:
        """The init process of a running container. Raises NotFound, Conflict("instance_not_running")."""
        self.require(name)
        pid = self.init_pid(name) if self.state(name) is not State.STOPPED else None
        if pid is None:
            raise Conflict("instance_not_running", f"{name} is not running", hint=f"Start it: triune start {name}")
        return pid

    def start(self, name: str) -> None:
        """Start it; returns when it runs. Raises Failed("start_failed") with liblxc's own reason."""
        log = self.folder(name) / "start.log"
        log.unlink(missing_ok=True)
        argv: list[str | Path] = ["lxc-start", "-P", self.path, "-n", name, "-d", "-l", "ERROR", "-o", log]
        if run(argv, check=False, timeout=60).status != 0:
            raise Failed(
                "start_failed",
                f"{name} did not start: {start_errors(log)}",
                hint=f"Try it in the foreground: lxc-start -P {self.path} -n {name} -F",
            )

    def ask_shutdown(self, name: str) -> None:
        """Send init its halt signal (SIGPWR, SIGRTMIN+3 for systemd, or lxc.signal.halt); does not wait."""
        self.tool("lxc-stop", name, "--nokill", "--nowait")

    def kill(self, name: str) -> None:
        """Kill every process of it."""
        self.tool("lxc-stop", name, "--kill")

    def freeze(self, name: str) -> bool:
        """Stop all its processes where they are; returns whether it worked."""
        return self.tool("lxc-freeze", name).status == 0

    def unfreeze(self, name: str) -> bool:
        """Let them go on; returns whether it worked."""
        return self.tool("lxc-unfreeze", name).status == 0

    def tool(self, program: str, name: str, *words: str, check: bool = False) -> Result:
        """Run one of LXC's tools on a container."""
        return run([program, "-P", self.path, "-n", name, *words], check=check, timeout=60)


def start_errors(log: Path) -> str:
    """The first errors of a start log, which hold the cause; later ones are what followed from it."""
    try:
        text = log.read_bytes()[: 1 << 16].decode(errors="replace")
    except OSError:
        return "LXC left no log"
    said = [match[1] for match in map(_LOG_LINE.match, text.splitlines()) if match]
    return "; ".join(said[:3]) or "LXC gave no reason"
