"""A daemon for the tests of backups, with images of the other tests, and a repository of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import CACHE, Daemon
from tests.live.system_fixtures import IMAGE, built_image

PREFIX = "tbkp-"
DATA = CACHE / "data-backup"


class Place:
    """A daemon and a repository."""

    def __init__(self, daemon: Daemon, repository: Path) -> None:
        self.daemon = daemon
        self.repository = repository

    def backup(self, name: str) -> dict[str, Any]:
        """Back one instance up; returns what was told of it."""
        done = self.daemon.run("backup", "create", name, "--repo", str(self.repository), "--format", "json")
        (made,) = json.loads(done.stdout)
        assert isinstance(made, dict)
        return made

    def size(self) -> int:
        """What the repository takes on disk, in bytes."""
        return sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file())

    def backups(self, name: str) -> list[dict[str, Any]]:
        """The list of one instance's."""
        rows: list[dict[str, Any]] = self.daemon.json("backup", "list", name, "--repo", str(self.repository))
        return rows

    def restore(self, which: str, name: str, *options: str) -> None:
        """As a new instance."""
        self.daemon.run("backup", "restore", which, "--name", name, "--repo", str(self.repository), *options)

    def verify(self) -> tuple[int, dict[str, Any]]:
        """The exit code and the report."""
        argv = ("backup", "verify", "--repo", str(self.repository), "--format", "json")
        done = self.daemon.run(*argv, check=False)
        return done.returncode, json.loads(done.stdout)

    def cat(self, which: str, path: str) -> bytes:
        """A file."""
        return self.daemon.run("backup", "cat", which, path, "--repo", str(self.repository)).stdout

    def fails(self, *argv: str) -> tuple[int, str]:
        """Exit code and error output of a `backup …` that fails."""
        done = self.daemon.run("backup", *argv, check=False)
        assert done.returncode != 0, done.stdout
        return done.returncode, done.stderr.decode()


def stay_behind(place: Place) -> list[str]:
    """What no backup may leave: mounts, programs, frozen instances, folders."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [line for line in lines if "triune-stage" in line or (PREFIX in line and "/archive/" in line)]
    programs = [line for line in _programs() if str(place.repository) in line or "host.staging" in line]
    paused = [row["name"] for row in place.daemon.names().values() if row["state"] == "paused"]
    return [*mounts, *programs, *(name for name in paused if name.startswith(PREFIX))]


def _programs() -> Sequence[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words.startswith(("restic", "setpriv")) or "host.staging" in words:
            found.append(words)
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """One for a module."""
    (CACHE / "data/images").mkdir(mode=0o711, parents=True, exist_ok=True)
    shutil.rmtree(DATA / "repository", ignore_errors=True)
    bridge = {"bridge": "tbkp0", "table": "triune_tbkp", "domain": "tbkp.internal"}
    with Daemon(DATA, **bridge, candidates=("10.109.0.0/16", "10.110.0.0/16")) as daemon:
        daemon.kill()
        if not (DATA / "images").is_symlink():
            shutil.rmtree(DATA / "images", ignore_errors=True)
            (DATA / "images").symlink_to(CACHE / "data/images")
        daemon.start()
        built_image(daemon)
        daemon.remove_all(PREFIX)
        made = Place(daemon, DATA / "repository")
        yield made
        daemon.remove_all(PREFIX)
        shutil.rmtree(made.repository, ignore_errors=True)


def pid_of_container(name: str) -> int:
    """The process that is a Docker container's first."""
    done = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", name], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


__all__ = ["IMAGE", "PREFIX", "Place", "pid_of_container", "place", "stay_behind"]
