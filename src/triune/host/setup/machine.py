"""What the steps of setup act through: files below a root, tools, and daemons that outlive us."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from triune.domain.errors import Failed
from triune.host.probe.view import HostFiles, Tools
from triune.host.run import Result, environment, run

_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The host, or a canned tree in tests."""

    files: HostFiles = field(default_factory=HostFiles)
    tools: Tools = field(default_factory=Tools)

    @property
    def systemd(self) -> bool:
        """Whether systemd is PID 1 (sd_booted(3))."""
        return self.files.exists("/run/systemd/system")

    def run(self, *argv: str, timeout: float = 60, env: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end; raises as `host.run.run` does."""
        return run(argv, timeout=timeout, env=env)

    def write(self, name: str, content: str, mode: int = 0o644) -> None:
        """Replace a file at once, so that a crash leaves the old or the new one."""
        path = self.files.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.triune-new")
        fresh.write_text(content)
        fresh.chmod(mode)
        fresh.replace(path)

    def link(self, name: str, target: Path) -> None:
        """Point a symbolic link at the target, at once."""
        path = self.files.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.triune-new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(path)

    def listener(self, socket_path: str) -> int | None:
        """The pid of the process that listens on a unix socket; None where nobody answers (unix(7), SO_PEERCRED)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.files.path(socket_path)))
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            except OSError:
                return None
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    def spawn(self, argv: Sequence[str], log: str) -> int:
        """Start a daemon that outlives us, in its own session, its output appended to `log`. Returns its pid."""
        path = self.files.path(log)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env=environment(),
            )
        return child.pid

    def wait(
        self,
        ready: Callable[[], bool],
        what: str,
        hint: str,
        seconds: float = _START_SECONDS,
        pid: int | None = None,
    ) -> None:
        """Wait until something is up. Raises Failed ("daemon_not_up") when it is not in time, or the process ended."""
        deadline = time.monotonic() + seconds
        while not ready():
            if pid is not None and self.started(pid) is None:
                raise Failed("daemon_not_up", f"{what} ended as soon as it was started", hint=hint)
            if time.monotonic() > deadline:
                raise Failed("daemon_not_up", f"{what} did not come up within {seconds:.0f} s", hint=hint)
            time.sleep(0.1)

    def started(self, pid: int) -> float | None:
        """When a process started, in seconds since the epoch (proc(5), stat field 22); None when it has ended."""
        fields = self._stat(pid)
        boot = next((line.split()[1] for line in self.files.lines("/proc/stat") if line.startswith("btime ")), None)
        return None if fields is None or boot is None else int(boot) + int(fields[19]) / os.sysconf("SC_CLK_TCK")

    def spent(self, pid: int) -> float | None:
        """The processor time of a process and its children that ended, in seconds; None when it has ended."""
        fields = self._stat(pid)
        return None if fields is None else sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def _stat(self, pid: int) -> list[str] | None:
        """Of proc(5)'s stat the fields from the third on."""
        stat = self.files.text(f"/proc/{pid}/stat")
        # The name in parentheses may hold blanks; the fields after it don't. A zombie has ended, reaped or not.
        fields = stat.rpartition(")")[2].split() if stat is not None else ["X"]
        return None if fields[0] in "ZX" else fields
