"""Launch plans for tests of the KVM engine's pure parts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.image import DiskForm
from triune.domain.instance import InstanceSpec
from triune.domain.network import Network, Nic
from triune.engines.base import LaunchPlan
from triune.engines.kvm.spec import Files, HostFacts

GIB = 2**30
NETWORK = Network(name="triune0", bridge="triune0", subnet="10.87.0.0/24", gateway="10.87.0.1", domain="triune.test")
NIC = Nic(network=NETWORK, mac="52:54:00:12:34:56", address="10.87.0.5")
DIRECT = DiskForm(
    path=Path("/images/base.qcow2"),
    virtual_size=2 * GIB,
    kernel=Path("/images/vmlinuz"),
    initrd=Path("/images/initrd"),
    cmdline="root=/dev/vda rw console=ttyS0",
    agent=True,
)
FILES = Files(folder=Path("/var/lib/triune/instances/kvm/one"))
EMULATED = HostFacts(accelerated=False, memory=8 * GIB, cpus=4, cpu_cgroup=1)
ACCELERATED = HostFacts(accelerated=True, memory=8 * GIB, cpus=4, virtiofs=True)


def plan(
    form: Any = DIRECT, *, user_data: str | None = None, nics: tuple[Nic, ...] = (NIC,), **spec: Any
) -> LaunchPlan:
    base = InstanceSpec(name="one", image="debian/12", engine="kvm")
    return LaunchPlan(
        spec=replace(base, **spec),
        form=form,
        image="debian/12",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        nics=nics,
        machine_id="0123456789abcdef0123456789abcdef",
        user_data=user_data,
    )
