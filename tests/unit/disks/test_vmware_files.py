"""vmware.log, .vmsd, .vmxf and .nvram, whoever wrote them."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.disks.nvram import read_nvram
from triune.disks.vmsd import machine_ids, snapshots
from triune.disks.vmware_log import settings_of
from triune.disks.vmx import Vmx
from triune.domain.errors import Invalid

OLD = "Jun 28 23:40:57.260: vmx| "
NEW = "2021-02-20T11:50:10.598+08:00| vmx| I125: "
ESXI8 = "2023-05-01T10:00:00.123Z In(05) vmx - "
LINES = """Log for VMware
DICT --- COMMAND LINE
DICT            vmx.stdio.keep = TRUE
DICT --- CONFIGURATION /vmfs/volumes/x/my vm/my vm.vmx\x20
DICT            config.version = 8
DICT               displayName = Büro = 1
DICT                annotation =\x20
DICT            ide0:0.fileName = Windows XP.vmdk
DICT --- USER DEFAULTS
DICT                  memsize = 9
something else
DICT --- CONFIGURATION
DICT               displayName = last
DICT                  memsize = 128
DICT --- USER DEFAULTS\x20
DICT              displayName = not this
"""


@pytest.mark.parametrize("lead", [OLD, NEW, ESXI8])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_last_start_of_a_log(lead: str, end: str) -> None:
    log = "".join(lead + line + end for line in LINES.splitlines())
    machine = settings_of(log.encode())
    assert machine and machine.complete and machine.settings == 2 and machine.path == ""
    assert machine.vmx.get("displayname") == "last" and machine.vmx.get("memSize") == "128"
    first = settings_of(log.encode()[: log.encode().index(b"something")])
    assert first and first.path == "/vmfs/volumes/x/my vm/my vm.vmx"
    assert first.vmx.get("displayName") == "Büro = 1" and first.vmx.get("annotation", "?") == ""
    again = Vmx.parse(first.vmx.encode())
    assert again.get("ide0:0.filename") == "Windows XP.vmdk" and again.get("displayName") == "Büro = 1"


def test_quoted_settings_and_a_log_cut_off() -> None:
    machine = settings_of(f'{ESXI8}DICT --- CONFIGURATION\n{ESXI8}DICT    displayName = "a |22b|22"\n'.encode())
    assert machine and not machine.complete and machine.vmx.get("displayName") == 'a "b"'
    assert settings_of(b"nothing of it") is None


VMSD = b""".encoding = "UTF-8"
snapshot.lastUID = "2"
snapshot.current = "2"
snapshot0.uid = "1"
snapshot0.filename = "vm-Snapshot1.vmsn"
snapshot0.displayName = "first"
snapshot0.createTimeHigh = "388801"
snapshot0.createTimeLow = "-814770620"
snapshot0.numDisks = "1"
snapshot0.disk0.fileName = "vm.vmdk"
snapshot0.disk0.node = "scsi0:0"
snapshot.numSnapshots = "3"
snapshot1.uid = "2"
snapshot1.parent = "7"
snapshot1.numDisks = "99999999"
"""


def test_snapshots() -> None:
    found = snapshots(VMSD)
    first, second = found.snapshots
    assert found.current == 2 and first.disks == (("scsi0:0", "vm.vmdk"),) and second.parent == 7
    assert first.created == ((388801 << 32) + (-814770620 & 0xFFFFFFFF)) / 1e6
    assert len(found.problems) == 2


def test_ids_of_a_machine() -> None:
    data = b'<?xml version="1.0"?><Foundry><VM><VMId type="string">52 ab</VMId>'
    data += b'<vmxPathName type="string">a &amp; b.vmx</vmxPathName></VM></Foundry>'
    assert machine_ids(data).vmx == "a & b.vmx" and machine_ids(data).vm_id == "52 ab"


def nvram(variables: dict[str, bytes]) -> bytes:
    body = b""
    for name, data in variables.items():
        raw = name.encode("utf-16-le") + b"\0\0"
        body += struct.pack("<16sIII", b"g" * 16, 7, len(raw) + len(data), len(raw)) + raw + data
    head = b"MRVN" + struct.pack("<I", 1) + bytes(100) + b"VMWNVRAM"
    return head + struct.pack("<II", 0, 16 + len(body)) + body + b"\xff" * 64


def test_firmware() -> None:
    found = read_nvram(nvram({"PK": b"key", "Boot0000": b"x"}))
    assert found.firmware == "efi" and found.whole and found.secure_boot_keys
    assert [each.name for each in found.variables] == ["PK", "Boot0000"]
    assert read_nvram(b"MRVN" + bytes(8000)).firmware == "bios" and not read_nvram(b"").firmware


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"MRVN", nvram({"PK": b"key"}), VMSD, OLD.encode() + b"DICT ---"])
)
def test_nonsense(data: bytes, lead: bytes) -> None:
    for mixed in (lead + data, lead[: len(data)] + data):
        read_nvram(mixed)
        machine_ids(mixed)
        settings_of(mixed)
        with contextlib.suppress(Invalid):
            snapshots(mixed)
