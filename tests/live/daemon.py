"""A real daemon on the real engines, with its own data folder, socket, bridge and nftables table."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from triune.app import Settings, Triune

CACHE = Path(os.environ.get("TRIUNE_TEST_CACHE", "/var/tmp/triune-tests"))
TRIUNE = Path(sys.executable).with_name("triune")
BRIDGE = "tritest0"
TABLE = "triune_test"
DOMAIN = "tritest.internal"


def _rootless(socket: Path | None) -> str:
    if socket is None:
        return ""
    enabled = json.dumps(["lxc", "kvm", "docker", "rootless"])
    return f'\n[engines]\nenabled = {enabled}\nrootless_url = "unix://{socket}"\n'


class Daemon:
    """Start, kill and ask a daemon. Everything it makes is under one folder and under names of its own."""

    def __init__(
        self,
        data: Path,
        *,
        bridge: str = BRIDGE,
        table: str = TABLE,
        domain: str = DOMAIN,
        candidates: Sequence[str] = ("10.93.0.0/16", "10.94.0.0/16"),
        templates: bool = False,
        rootless: Path | None = None,
    ) -> None:
        """Two daemons at a time need all of it different. `templates`: make them after launches, as users have it.
        `rootless` is the socket of a rootless Docker daemon of its own."""
        self.data = data
        self.socket = data / "triune.sock"
        self.log = data / "daemon.log"
        self.crash_at = data / "crash-at"
        self.process: subprocess.Popen[bytes] | None = None
        data.mkdir(parents=True, exist_ok=True)
        config = data / "triune.toml"
        config.write_text(
            f'data = "{data}"\nsocket = "{self.socket}"\n\n[network]\n'
            f'name = "{bridge}"\ntable = "{table}"\ndomain = "{domain}"\nlabel = "{table}"\n'
            f'folder = "{data}/network"\ncandidates = {json.dumps(list(candidates))}\n\n'
            f"[templates]\nautomatic = {json.dumps(templates)}\n{_rootless(rootless)}"
        )
        self.env = {**os.environ, "TRIUNE_CONFIG": str(config), "TRIUNE_HOST": str(self.socket), "NO_COLOR": "1"}
        self.crash_at.unlink(missing_ok=True)

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Also when a fixture failed half-way: the next module needs the data folder.
        self.kill()
        self.remove_network()

    def remove_network(self) -> None:
        """Take away what outlives a daemon by design: bridge, name server, rules, Docker's network."""
        config = Path(self.env["TRIUNE_CONFIG"])
        assert config.exists(), "without it the host's own daemon would be meant"
        triune = Triune(Settings.load(config))
        try:
            triune.networks.remove(force=True)
        finally:
            triune.close()

    def start(self) -> None:
        """Start it and wait until it answers."""
        env = {**self.env, "TRIUNE_CRASH_AT": str(self.crash_at)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [TRIUNE, "serve"], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended at start: {self.tail()}")
            if self._listens() and self.run("ops", "list", check=False).returncode == 0:
                return
            time.sleep(0.02)
        raise AssertionError(f"the daemon does not answer: {self.tail()}")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self) -> None:
        """End it as an administrator would."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(PATIENCE) == 0, self.tail()

    def kill(self) -> None:
        """End it as the kernel would."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(PATIENCE)

    def crash(self, point: str) -> None:
        """Let it kill itself when it next comes to this point."""
        self.crash_at.write_text(point)

    def died(self, timeout: float = 90) -> None:
        """Wait until it has killed itself at its crash point."""
        assert self.process is not None
        status = self.process.wait(timeout)
        self.crash_at.unlink()
        assert status == -signal.SIGKILL, f"ended with {status}: {self.tail()}"

    def tail(self) -> str:
        """The last of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def run(
        self, *argv: str, check: bool = True, stdin: bytes = b"", timeout: float = 240
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `triune …` against it."""
        done = subprocess.run([TRIUNE, *argv], env=self.env, input=stdin, capture_output=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"triune {' '.join(argv)}: {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}")
        return done

    def begin(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start `triune …` against it and go on."""
        return subprocess.Popen([TRIUNE, *argv], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def json(self, *argv: str) -> Any:
        """Run a command with `--format json` and return what it printed."""
        return json.loads(self.run(*argv, "--format", "json").stdout)

    def exec(self, name: str, *argv: str, check: bool = True) -> str:
        """Run a command inside and return its output."""
        return self.run("exec", name, "--", *argv, check=check).stdout.decode()

    def launch(self, image: str, name: str, engine: str, *options: str, command: Sequence[str] = ()) -> None:
        """Launch and wait until ready."""
        tail = ("--", *command) if command else ()
        self.run("launch", image, name, "--engine", engine, *options, *tail)

    def names(self) -> Mapping[str, dict[str, Any]]:
        """The inventory by name."""
        return {row["name"]: row for row in self.json("list")}

    def remove_all(self, prefix: str) -> None:
        """Remove every instance whose name begins with the prefix."""
        for name in self.names():
            if name.startswith(prefix):
                self.run("rm", name, "--yes", "--force", "--adopted", check=False)
