"""Backups beside the repository's own program on the same tree: first ones, of a stopped system container."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.live.daemon import Daemon
from triune.engines.lxc import mark as marks

_LXC = Path("/var/lib/lxc")
_FILLING = (
    "for i in 1 2 3 4 5 6; do head -c 40000000 /dev/urandom >/srv/random-$i; cp -r /usr/lib /srv/lib-$i; "
    "find /srv/lib-$i -type f -size +16k -exec sh -c 'echo $0 >>$1' $i {} \\; ; done"
)


class Pair:
    """The two ways, each into a fresh repository of its own."""

    def __init__(self, daemon: Daemon, name: str, folder: Path) -> None:
        self._daemon = daemon
        self._name = name
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = folder / "key"
        self._key.write_text("for a measurement\n")

    def fill(self) -> None:
        """A gigabyte of many files, some alike."""
        self._daemon.exec(self._name, "sh", "-c", _FILLING)
        self._daemon.run("stop", self._name)

    def ours(self, number: int) -> None:
        """`triune backup create`."""
        target = self._folder / f"ours-{number}"
        self._daemon.run(
            "backup", "create", self._name, "--repo", str(target), "--password-file", str(self._key), timeout=600
        )

    def theirs(self, number: int) -> None:
        """`restic init` and `restic backup` of the container's root."""
        mark = marks.read(_LXC / self._name)
        assert mark is not None
        target = self._folder / f"theirs-{number}"
        env = {**os.environ, "RESTIC_PASSWORD_FILE": str(self._key)}
        base = ["restic", "--quiet", "--no-cache", "--repo", str(target)]
        subprocess.run([*base, "init"], env=env, check=True, capture_output=True)
        trees = [str(mark.lower), str(mark.own(_LXC / self._name))]
        subprocess.run([*base, "backup", *trees], env=env, check=True, capture_output=True)

    def forget(self) -> None:
        """Remove the repositories."""
        shutil.rmtree(self._folder, ignore_errors=True)
