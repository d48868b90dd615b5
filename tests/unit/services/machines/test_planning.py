"""What a machine becomes here."""

from __future__ import annotations

import pytest
from tests.unit.services.machines.made import VMX, parsed

from triune.domain.errors import Invalid
from triune.domain.machine import Described, Firmware
from triune.services.machines.planning import Wishes, is_linux, is_windows, lacks_drivers, plan
from triune.services.machines.vmx_machine import describe


def planned(wishes: Wishes = Wishes(), virtio: bool | None = None, text: str = VMX) -> Described:  # noqa: B008
    return plan(describe(parsed(text)), wishes, virtio=virtio)


BIOS = Wishes(firmware=Firmware.BIOS)


def test_uefi_boots_from_what_its_firmware_drives() -> None:
    described = planned()
    assert {disk.bus for disk in described.machine.disks} == {"sata"}
    assert any("UEFI does not boot" in note for note in described.notes)
    assert {(disk.bus, disk.controller) for disk in planned(Wishes(bus="scsi")).machine.disks} == {("scsi", "virtio")}


def test_devices_keep_their_kinds_unless_virtio_is_known_to_work() -> None:
    kept = planned(BIOS).machine
    assert {(disk.bus, disk.controller) for disk in kept.disks} == {("scsi", "pvscsi")}
    assert [card.model for card in kept.cards] == ["vmxnet3", "e1000"]
    quick = planned(virtio=True).machine
    assert {disk.bus for disk in quick.disks} == {"virtio"}
    assert {card.model for card in quick.cards} == {"virtio"}


def test_drivers_that_are_put_in_count_as_there() -> None:
    described = planned(Wishes(inject=True), virtio=False)
    assert {disk.bus for disk in described.machine.disks} == {"virtio"}
    assert {card.model for card in described.machine.cards} == {"virtio"}
    assert any("virt-v2v puts drivers" in note for note in described.notes)
    assert any("none are put" in note for note in planned(Wishes(inject=True), virtio=True).notes)
    assert [lacks_drivers(Wishes(inject=True), virtio=one) for one in (None, False, True)] == [True, True, False]
    assert not lacks_drivers(Wishes(), virtio=False)
    with pytest.raises(Invalid) as caught:
        planned(Wishes(inject=True, bus="sata"))
    assert caught.value.code == "bad_bus"


@pytest.mark.parametrize("wishes", [Wishes(), Wishes(bus="virtio")])
def test_where_drivers_are_missing_they_are_offered(wishes: Wishes) -> None:
    assert any("--inject-drivers" in note for note in planned(wishes, virtio=False).notes)


def test_what_nothing_here_can_be_is_told() -> None:
    text = VMX.replace('virtualDev = "pvscsi"', 'virtualDev = "lsilogic"')
    described = planned(text=text)
    assert {disk.bus for disk in described.machine.disks} == {"sata"}
    assert any("lsilogic" in note for note in described.notes)


def test_wishes_win() -> None:
    wishes = Wishes(
        bus="ide", card="pcnet", memory=1 << 30, cpus=3, secure_boot=False, tpm=False, display=False, new_macs=True,
        networks={"backup": None}, network="lab", skip=frozenset({"scsi0:1"}),
    )  # fmt: skip
    machine = planned(wishes, virtio=True).machine
    assert [(disk.slot, disk.bus) for disk in machine.disks] == [("scsi0:0", "ide")]
    assert (machine.memory, machine.cpus, machine.cores) == (1 << 30, 3, 1)
    assert not (machine.secure_boot or machine.tpm or machine.display)
    assert [(card.network, card.mac, card.model) for card in machine.cards] == [
        ("lab", "", "pcnet"),
        (None, "", "pcnet"),
    ]


def test_wishes_that_can_not_be() -> None:
    with pytest.raises(Invalid) as caught:
        planned(Wishes(skip=frozenset({"scsi9:9"})))
    assert caught.value.code == "no_such_slot"
    with pytest.raises(Invalid) as caught:
        planned(Wishes(firmware=Firmware.BIOS, secure_boot=True))
    assert caught.value.code == "no_secure_boot"


@pytest.mark.parametrize("guest", ["debian12-64", "ubuntu-64", "rhel9-64", "other5xlinux-64", "vmware-photon-64"])
def test_linux(guest: str) -> None:
    assert is_linux(guest)


@pytest.mark.parametrize("guest", ["windows2019srv-64", "freebsd13-64", "other-64", ""])
def test_no_linux(guest: str) -> None:
    assert not is_linux(guest)
    assert is_windows(guest) == guest.startswith("windows")
