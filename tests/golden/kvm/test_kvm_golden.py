"""Plans in, domain XML out. After a wanted change: TRIUNE_UPDATE_GOLDEN=1 pytest tests/golden/kvm."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.engines.kvm.plans import ACCELERATED, DIRECT, EMULATED, FILES, GIB, plan

from triune.domain.image import DiskForm
from triune.domain.instance import VolumeMount
from triune.domain.limits import Limits
from triune.engines.base import LaunchPlan
from triune.engines.kvm.spec import HostFacts, build

FIRMWARE = DiskForm(path=Path("/images/old.vmdk"), format="vmdk", virtual_size=GIB, firmware="uefi", cloud_init=True)
MIB = 2**20
ISO = DiskForm(path=None, iso=Path("/images/installer.iso"))
HOSTILE = "]]></x><!-- & ' \" <script>"

CASES: dict[str, tuple[LaunchPlan, HostFacts]] = {
    "direct-emulated": (plan(), EMULATED),
    "direct-kvm": (plan(cpus=2.5, memory=GIB, disk=10 * GIB), ACCELERATED),
    "uefi-vmdk-seed": (plan(FIRMWARE, user_data="#cloud-config\n"), ACCELERATED),
    "iso-installer": (plan(ISO, disk=8 * GIB), EMULATED),
    "pc-sata-vnc": (plan(settings={"machine": "pc", "bus": "sata", "graphics": "vnc", "cpu": "EPYC"}), EMULATED),
    "limits": (
        plan(
            cpus=1.5,
            memory=GIB,
            limits=Limits(
                cpu_weight=200, cpu_pin="0-1,3", io_read=50 * MIB, io_write=10 * MIB, iops_read=500, iops_write=100
            ),
        ),
        ACCELERATED,
    ),
    "limits-cgroup1": (plan(FIRMWARE, cpus=4, limits=Limits(cpu_weight=1, iops_read=7), user_data="#\n"), EMULATED),
    "volume": (plan(volumes=(VolumeMount(source="/srv/data", target="/data"),)), ACCELERATED),
    "hostile": (
        plan(replace(DIRECT, cmdline=HOSTILE, path=Path(f"/images/{HOSTILE}")), env={"A": HOSTILE}, nics=()),
        EMULATED,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_xml(name: str) -> None:
    wanted = Path(__file__).parent / f"{name}.xml"
    xml = build(*[CASES[name][0], FILES, CASES[name][1]]) + "\n"
    if os.environ.get("TRIUNE_UPDATE_GOLDEN"):
        wanted.write_text(xml)
    assert xml == wanted.read_text()
