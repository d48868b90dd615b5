"""VMX in, domain XML out. After a wanted change: TRIUNE_UPDATE_GOLDEN=1 pytest tests/golden/kvm."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from tests.unit.engines.kvm.plans import ACCELERATED, EMULATED, FILES, NETWORK
from tests.unit.services.machines.made import VMX, parsed

from triune.domain.errors import Invalid, TriuneError, Unsupported
from triune.domain.instance import InstanceSpec
from triune.domain.machine import Firmware, Machine, MachineDisk
from triune.domain.network import Nic
from triune.engines.importing import MachinePlan
from triune.engines.kvm import machine_spec
from triune.engines.kvm.spec import HostFacts
from triune.services.machines.planning import Wishes, plan
from triune.services.machines.vmx_machine import describe

MANY = "".join(
    f'scsi{number // 15}:{number % 15}.fileName = "d{number}.vmdk"\n' for number in range(18) if number % 15 != 7
)
OLD = (
    'displayName = "<old & \'grey\'>"\nguestOS = "winxppro"\nmemsize = "256"\nide0:0.fileName = "c.vmdk"\n'
    'ide1:0.fileName = "d.vmdk"\nethernet0.present = "TRUE"\nethernet0.virtualDev = "vlance"\n'
)
SAS = 'guestOS = "windows2019srv-64"\nmemsize = "512"\nscsi0.virtualDev = "lsisas1068"\nscsi0:0.fileName = "c.vmdk"\n'

CASES: dict[str, tuple[str, Wishes, bool | None, HostFacts]] = {
    "machine-uefi": (VMX, Wishes(), None, ACCELERATED),
    "machine-vmware": (VMX, Wishes(firmware=Firmware.BIOS, secure_boot=False), None, ACCELERATED),
    "machine-virtio": (VMX, Wishes(secure_boot=False, tpm=False), True, EMULATED),
    "machine-ide": (OLD, Wishes(), None, EMULATED),
    "machine-sas": (SAS, Wishes(display=False), None, ACCELERATED),
    "machine-many": (f'memsize = "512"\nscsi0.virtualDev = "pvscsi"\n{MANY}', Wishes(), None, EMULATED),
}


def made(text: str, wishes: Wishes, virtio: bool | None) -> MachinePlan:
    machine = plan(describe(parsed(text)), wishes, virtio=virtio).machine
    nics = tuple(
        Nic(network=NETWORK, mac=card.mac or "02:00:00:00:00:07", address="" if number else "10.87.0.5")
        for number, card in enumerate(machine.cards)
    )
    spec = InstanceSpec(name="one", image="", engine="kvm", cpus=machine.cpus, memory=machine.memory)
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return MachinePlan(spec=spec, machine=machine, created=created, nics=nics)


@pytest.mark.parametrize("name", CASES)
def test_xml(name: str) -> None:
    text, wishes, virtio, host = CASES[name]
    host = replace(host, cpus=8)
    wanted = Path(__file__).parent / f"{name}.xml"
    one = made(text, wishes, virtio)
    machine_spec.check(one, host)
    xml = machine_spec.build(one, FILES, host, UUID(int=7), tpm=True) + "\n"
    if os.environ.get("TRIUNE_UPDATE_GOLDEN"):
        wanted.write_text(xml)
    assert xml == wanted.read_text()


def test_addresses_are_unique() -> None:
    text, wishes, virtio, _ = CASES["machine-many"]
    root = ET.fromstring(machine_spec.build(made(text, wishes, virtio), FILES, EMULATED, UUID(int=7), tpm=False))
    disks = root.findall("devices/disk")
    addresses = [(one.find("target").get("bus"), *sorted(one.find("address").attrib.items())) for one in disks]
    assert len(addresses) == len(set(addresses)) == 17
    targets = [one.get("dev") for one in root.iterfind("devices/disk/target")]
    assert len(set(targets)) == 17


def refused(machine: Machine) -> TriuneError:
    spec = InstanceSpec(name="one", image="", engine="kvm")
    with pytest.raises((Invalid, Unsupported)) as caught:
        machine_spec.check(MachinePlan(spec=spec, machine=machine, created=datetime.now(UTC)), EMULATED)
    return caught.value


def test_what_can_not_be_made() -> None:
    disk = MachineDisk(slot="ide0:0", bus="ide")
    assert refused(Machine(name="x")).code == "no_disk"
    assert refused(Machine(name="x", disks=(replace(disk, bus="nvme"),))).code == "no_such_bus"
    assert refused(Machine(name="x", disks=(disk,), secure_boot=True)).code == "no_secure_boot"
    assert refused(Machine(name="x", disks=(disk,), cpus=3, cores=2)).code == "bad_topology"
    assert refused(Machine(name="x", disks=(disk,), memory=1)).code == "bad_memory"
    assert refused(Machine(name="x\ny", disks=(disk,))).code == "control_character"
    assert refused(Machine(name="x", disks=(disk,) * 5)).code == "too_many_disks"
