"""govmomi's ESXi simulator, built from Debian's packages once and kept in the tests' cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.patience import PATIENCE
from tests.rescue.esxi.host import PASSWORD
from tests.rescue.samples import CACHE

SOURCE = Path(__file__).with_name("simulator.go")
GOPATH = Path("/usr/share/gocode")


class Unbuildable(Exception):
    """There is no Go, or no govmomi."""


@dataclass(frozen=True)
class Simulated:
    """A running one: `folder` is where the datastore's files lie on this machine."""

    host: str
    datastore: str
    folder: Path

    def address(self, path: str = "") -> str:
        return f"esxi://root@{self.host}/{path}"


def built() -> Path:
    """The program. Raises Unbuildable."""
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = CACHE.parent / "esxi"
    program = folder / f"simulator-{name}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None or not (GOPATH / "src/github.com/vmware/govmomi/simulator").is_dir():
        raise Unbuildable("needs golang-go and golang-github-vmware-govmomi-dev")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            half = program.with_suffix(".half")
            environment = {
                **os.environ,
                "GOPATH": str(GOPATH),
                "GO111MODULE": "off",
                "GOCACHE": str(folder / "gocache"),
                "GOFLAGS": "",
            }
            subprocess.run([go, "build", "-o", half, SOURCE], env=environment, check=True, timeout=PATIENCE)
            shutil.rmtree(folder / "gocache", ignore_errors=True)
            half.rename(program)
    return program


@contextmanager
def simulated() -> Iterator[Simulated]:
    """One that runs."""
    process = subprocess.Popen(
        [built()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "SIMULATOR_PASSWORD": PASSWORD},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        host, datastore, folder = (process.stdout.readline().strip() for _ in range(3))
        yield Simulated(host, datastore, Path(folder))
    finally:
        process.stdin.close()
        process.wait(PATIENCE)
        process.stdout.close()
