"""A machine written for ESXi again reads back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.services.machines.made import VMX, InMemory, flat, parsed

from triune.disks.content import read
from triune.domain.errors import Conflict, Failed
from triune.services.machines import esxi
from triune.services.machines.origin import open_file, read_origin
from triune.services.machines.vmx_machine import describe

DATA = bytes(range(256)) * 8
FILES = {
    "web.vmx": VMX.encode(),
    "web.vmdk": flat("web", 8),
    "web-flat.vmdk": DATA + bytes(2048),
    "data.vmdk": flat("data", 4),
    "data-flat.vmdk": DATA,
}


def test_there_and_back(tmp_path: Path) -> None:
    origin = read_origin(InMemory(FILES), "web.vmx")
    written = esxi.register(origin, "again", tmp_path / "out", zeros=False)
    assert [Path(path).name for path in written] == [
        *("again.vmx", "again.vmdk", "again-flat.vmdk", "again_1.vmdk", "again_1-flat.vmdk"),
    ]
    with open_file(tmp_path / "out/again.vmx") as back:
        was, now = origin.described.machine, back.described.machine
        for name in ("name", "guest", "firmware", "secure_boot", "cpus", "cores", "memory", "uuid", "cards"):
            assert getattr(now, name) == getattr(was, name), name
        assert [(one.slot, one.controller, one.size) for one in now.disks] == [
            (one.slot, one.controller, one.size) for one in was.disks
        ]
        for slot, content in origin.disks.items():
            assert read(back.disks[slot], 0, content.size) == read(content, 0, content.size)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    origin = read_origin(InMemory(FILES), "web.vmx")
    (tmp_path / "again-flat.vmdk").touch()
    with pytest.raises(Conflict):
        esxi.register(origin, "again", tmp_path, zeros=False)
    assert [one.name for one in tmp_path.iterdir()] == ["again-flat.vmdk"]


def test_what_is_missing_is_not_made_up(tmp_path: Path) -> None:
    origin = read_origin(InMemory({**FILES, "web.vmdk": flat("web", 8, extent="gone.vmdk")}), "web.vmx")
    with pytest.raises(Failed):
        esxi.register(origin, "again", tmp_path, zeros=False)


def test_a_name_with_quotes_stays_one_value() -> None:
    machine = describe(parsed('displayName = "a|22b|7Cc"\nscsi0:0.fileName = "x.vmdk"\n')).machine
    assert machine.name == 'a"b|c'
    text = "".join(f'{key} = "{value}"\n' for key, value in esxi.lines(machine, "x", {"scsi0:0": "x"}))
    assert describe(parsed(text)).machine.name == 'a"b|c'
