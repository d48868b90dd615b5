"""Snapshots and clones of a stopped virtual machine, against qemu-img on a copy of the same disk.

Measured in the engine, as those of system containers are (see `lxc_snapshots`). The disk has 1 GiB of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.lxc_snapshots import Pair, Subject
from tests.live.kvm_fixtures import Lab, kvm_form
from triune.domain.operation import Silent

PREFIX = "tbkvm-"


@dataclass
class Bench(Subject):
    """One machine that never ran, and a copy of its disk for the bare tool."""

    bare: Path

    def pairs(self) -> Iterator[Pair]:
        def snapshot(how: str, name: str) -> None:
            subprocess.run(["qemu-img", "snapshot", "-q", how, name, str(self.bare)], check=True)

        def overlay(number: int) -> None:
            new = self.bare.with_name(f"c{number}.qcow2")
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(self.bare), str(new)]
            subprocess.run(argv, check=True)

        # First: one with snapshots inside is cloned by copying.
        yield "clone KVM", "`qemu-img create -b`", self.clone, overlay
        yield "snapshot KVM", "`qemu-img snapshot -c`", self.create, lambda n: snapshot("-c", f"s{n}")
        yield "restore KVM", "`qemu-img snapshot -a`", self.restore, lambda _: snapshot("-a", "s0")


@contextmanager
def benches() -> Iterator[Iterator[Pair]]:
    """Every measurement; nothing of it stays."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="triune-bench-") as folder:
        Path(folder).chmod(0o711)
        lab = Lab(Path(folder) / "state", kvm_form.__wrapped__(), PREFIX)
        lab.clean()
        try:
            plan = lab.plan("one", disk=1500 << 20)
            lab.engine.create(plan, Silent())
            disk = lab.state_dir / plan.spec.name / "disk.qcow2"
            filling = Path(folder) / "filling"
            filling.write_bytes(os.urandom(1 << 20) * 1024)
            subprocess.run(["qemu-io", "-c", f"write -s {filling} 0 1G", str(disk)], check=True, capture_output=True)
            bare = disk.parent.parent / "bare.qcow2"
            shutil.copyfile(disk, bare)
            yield Bench(lab.engine, plan.spec.name, bare).pairs()
        finally:
            lab.clean()
