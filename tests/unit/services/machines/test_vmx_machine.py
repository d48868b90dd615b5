"""A VMX as a machine: nothing of it is lost without a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.services.machines.made import MIB, VMX, parsed

from triune.domain.errors import Invalid, TriuneError, Unsupported
from triune.domain.machine import Firmware, MachineCard, MachineDisk
from triune.services.machines.vmx_machine import describe


def reasons(text: str) -> dict[str, str]:
    return {one.key: one.reason for one in describe(parsed(text)).left_out}


def test_what_is_carried_over() -> None:
    machine = describe(parsed(VMX)).machine
    assert (machine.name, machine.guest, machine.firmware) == ("web", "debian12-64", Firmware.UEFI)
    assert (machine.cpus, machine.cores, machine.memory) == (4, 2, 2048 * MIB)
    assert machine.secure_boot and machine.tpm and machine.serials == 1
    assert machine.uuid == "421a0011-2233-4455-6677-8899aabbccdd"
    assert machine.disks == (
        MachineDisk(slot="scsi0:0", file="web.vmdk", bus="scsi", controller="pvscsi"),
        MachineDisk(slot="scsi0:1", file="data.vmdk", bus="scsi", controller="pvscsi"),
    )
    assert machine.cards == (
        MachineCard(slot="ethernet0", mac="00:50:56:9a:01:02", model="vmxnet3", network="VM Network"),
        MachineCard(slot="ethernet1", mac="00:50:56:00:00:01", model="e1000", network="backup"),
    )


@pytest.mark.parametrize(("value", "there"), [("software", True), ("TRUE", True), ("FALSE", False), ("", False)])
def test_a_tpm_without_encryption(value: str, there: bool) -> None:
    text = VMX.replace("vtpm.present", "managedvm.autoAddVTPM").replace(
        'managedvm.autoAddVTPM = "TRUE"', f'managedvm.autoAddVTPM = "{value}"'
    )
    assert "autoAddVTPM" in text
    assert describe(parsed(text)).machine.tpm is there


def test_every_other_line_is_told_with_its_number_and_a_reason() -> None:
    described = describe(parsed(VMX))
    lines = VMX.splitlines()
    for one in described.left_out:
        assert one.reason
        assert lines[one.line - 1].startswith(one.key)
    told = {one.line for one in described.left_out}
    assert {one.key for one in described.left_out} >= {
        *("config.version", "sata0:0.fileName", "nvme0:0.fileName", "RemoteDisplay.vnc.password", "strange.key"),
        *("serial0.fileType", "scsi0:1.mode"),
    }
    untold = {line.split(" ")[0] for number, line in enumerate(lines, 1) if number not in told}
    assert untold == {
        *("displayName", "guestOS", "firmware", "uefi.secureBoot.enabled", "memSize", "numvcpus"),
        *("cpuid.coresPerSocket", "scsi0.present", "scsi0.virtualDev", "scsi0:0.present", "scsi0:0.fileName"),
        *("scsi0:0.deviceType", "scsi0:1.present", "scsi0:1.fileName", "sata0.present", "ethernet0.present"),
        *("ethernet0.virtualDev", "ethernet0.networkName", "ethernet0.addressType", "ethernet0.generatedAddress"),
        *("ethernet1.present", "ethernet1.addressType", "ethernet1.address", "ethernet1.networkName"),
        *("serial0.present", "vtpm.present", "uuid.bios"),
    }


def test_the_order_of_the_disks_is_that_of_booting() -> None:
    machine = describe(parsed(VMX + 'bios.hddOrder = "scsi0:1,scsi0:0"\n')).machine
    assert [disk.slot for disk in machine.disks] == ["scsi0:1", "scsi0:0"]


@pytest.mark.parametrize(
    ("line", "key", "word"),
    [
        ('numvcpus = "99999"', "numvcpus", "number"),
        ('cpuid.coresPerSocket = "3"', "cpuid.coresPerSocket", "sockets"),
        ('scsi0.virtualDev = "unheard-of"', "scsi0.virtualDev", "SCSI"),
        ('ethernet0.generatedAddress = "ff:ff:ff:ff:ff:ff"', "ethernet0.generatedAddress", "MAC"),
        ('displayName = "twice"', "displayName", "once more"),
    ],
)
def test_values_that_make_no_sense(line: str, key: str, word: str) -> None:
    assert word in reasons(f"{VMX}{line}\n")[key]


def test_an_encrypted_machine_is_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        describe(parsed(VMX + 'encryption.keySafe = "vmware:key/list"\nencryption.data = "x"\n'))
    assert caught.value.code == "encrypted_machine"


def test_a_line_break_in_a_value_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        describe(parsed('scsi0:0.fileName = "web|0A.vmdk"\n'))
    assert caught.value.code == "control_character"


_KEYS = st.sampled_from([line.split(" = ")[0] for line in VMX.splitlines()])
_VALUES = st.one_of(st.text(max_size=40), st.sampled_from(["TRUE", "FALSE", "0", "-1", "9" * 30, "../../etc/passwd"]))


@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=30))
def test_any_lines_are_carried_over_or_told(lines: list[tuple[str, str]]) -> None:
    class Lines:
        def items(self) -> object:
            return ((key, value, number) for number, (key, value) in enumerate(lines, 1))

    try:
        described = describe(Lines())
    except TriuneError:
        return
    assert described.machine.cpus % described.machine.cores == 0
    assert described.machine.memory > 0
    assert {one.line for one in described.left_out} <= set(range(1, len(lines) + 1))
