"""The disks that a description names: only those beside it, and only whole ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.services.machines.made import InMemory, flat

from triune.disks.content import read
from triune.domain.errors import Failed, Invalid, NotFound, TriuneError
from triune.services.machines.origin import Origin, open_file, read_origin, require_whole
from triune.services.machines.planning import Wishes, plan
from triune.services.rescue.folders import on_host

DATA = bytes(range(256)) * 8
VMX = 'scsi0.present = "TRUE"\nscsi0:0.present = "TRUE"\nscsi0:0.fileName = "{file}"\n'


def origin(file: str = "web.vmdk", **files: bytes) -> Origin:
    plain = {"web.vmdk": flat("web", 4), "web-flat.vmdk": DATA}
    named = {name.replace("_", "-") + ".vmdk": data for name, data in files.items()}
    return read_origin(InMemory({"web.vmx": VMX.format(file=file).encode(), **plain, **named}), "web.vmx")


def test_a_disk_beside_the_vmx() -> None:
    found = origin()
    assert read(found.disks["scsi0:0"], 0, 2048) == DATA
    assert found.described.machine.disks[0].size == 2048
    require_whole(found)


def test_lines_that_cannot_be_read_are_told() -> None:
    vmx = 'displayName = "web"\nno line at all\nguestOS = "other\nfoo.bar = "1"\n'
    found = read_origin(InMemory({"web.vmx": vmx.encode()}), "web.vmx").described
    assert [(one.line, one.key, one.value) for one in found.left_out] == [
        (2, "", "no line at all"),
        (3, "", 'guestOS = "other'),
        (4, "foo.bar", "1"),
    ]


@pytest.mark.parametrize(
    "file", ["/vmfs/volumes/5e3c-1/web/web.vmdk", "../other/web.vmdk", r"C:\\vm\\web.vmdk", "[datastore1]/web/web.vmdk"]
)
def test_paths_that_lead_out_are_looked_for_by_their_last_name(file: str) -> None:
    assert read(origin(file).disks["scsi0:0"], 0, 4) == DATA[:4]


@pytest.mark.parametrize("file", ["gone.vmdk", "..", "/etc/passwd", "a/../../b.vmdk"])
def test_a_disk_that_is_not_there(file: str) -> None:
    with pytest.raises(NotFound) as caught:
        origin(file)
    assert caught.value.code == "disk_missing"
    assert "--skip scsi0:0" in caught.value.hint


def test_a_disk_that_is_left_out_need_not_be_there() -> None:
    found = read_origin(InMemory({"web.vmx": VMX.format(file="gone.vmdk").encode()}), "web.vmx", ["scsi0:0"])
    assert found.disks == {}
    planned = plan(found.described, Wishes(skip=frozenset({"scsi0:0"})), virtio=None)
    assert planned.machine.disks == ()
    assert planned.left_out[-1].key == "scsi0:0"


def test_an_extent_that_is_missing_ends_it() -> None:
    found = origin(web=flat("web", 4, extent="gone-flat.vmdk"))
    with pytest.raises(Failed) as caught:
        require_whole(found)
    assert caught.value.code == "disk_incomplete"
    assert caught.value.details["missing"] == [(0, 2048)]


@pytest.mark.parametrize("extent", ["/etc/shadow", "../secret-flat.vmdk"])
def test_an_extent_that_leads_out_is_never_read(extent: str) -> None:
    with pytest.raises(Failed) as caught:
        require_whole(origin(web=flat("web", 4, extent=extent)))
    assert "outside" in caught.value.message


def test_a_chain_that_bites_its_tail() -> None:
    found = origin(web=flat("web", 4, parent="web.vmdk"))
    assert any("itself" in note for note in found.notes)


def test_what_is_no_description() -> None:
    with pytest.raises(Invalid) as caught:
        read_origin(InMemory({"web.txt": b""}), "web.txt")
    assert caught.value.code == "no_description"


def test_a_log_takes_the_place_of_a_lost_vmx() -> None:
    log = (
        '2026-05-04T07:40:00.010Z| vmx| I005: DICT --- CONFIGURATION /vmfs/volumes/x/web/web.vmx\n'
        '2026-05-04T07:40:00.010Z| vmx| I005: DICT            displayName = "web"\n'
        '2026-05-04T07:40:00.010Z| vmx| I005: DICT                memSize = "256"\n'
        '2026-05-04T07:40:00.010Z| vmx| I005: DICT          scsi0.present = "TRUE"\n'
        '2026-05-04T07:40:00.010Z| vmx| I005: DICT        scsi0:0.present = "TRUE"\n'
        '2026-05-04T07:40:00.010Z| vmx| I005: DICT       scsi0:0.fileName = "web.vmdk"\n'
        '2026-05-04T07:40:00.010Z| vmx| I005: DICT --- USER DEFAULTS\n'
    )  # fmt: skip
    found = read_origin(
        InMemory({"vmware.log": log.encode(), "web.vmdk": flat("web", 4), "web-flat.vmdk": DATA}), "vmware.log"
    )
    assert (found.described.machine.name, found.described.machine.memory) == ("web", 256 << 20)
    assert "rebuilt" in found.described.notes[0]
    assert read(found.disks["scsi0:0"], 0, 4) == DATA[:4]


def test_a_disk_alone() -> None:
    found = read_origin(InMemory({"web.vmdk": flat("web", 4), "web-flat.vmdk": DATA}), "web.vmdk")
    assert found.described.machine.disks[0].bus == "sata"
    assert read(found.disks["disk0"], 0, 4) == DATA[:4]


def _refused(path: Path) -> TriuneError:
    with pytest.raises(TriuneError) as caught, open_file(path):
        pass
    return caught.value


def test_a_file_that_is_not_there_and_what_is_taken(tmp_path: Path) -> None:
    found = _refused(tmp_path / "web.vmx")
    assert (found.code, str(tmp_path / "web.vmx") in found.message) == ("no_source", True)
    for suffix in (".vmx", ".vmtx", ".ovf", ".ova", ".vmdk", "vmware.log"):
        assert suffix in found.hint
    (tmp_path / "web2.vmx").write_text("x")
    assert f"Did you mean {tmp_path / 'web2.vmx'}?" in _refused(tmp_path / "web.vmx").hint
    assert _refused(tmp_path / "web2.vmx" / "below.vmx").code == "source_refused"


def test_a_folder_tells_the_machines_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.vmx").mkdir()
    found = _refused(tmp_path)
    assert (found.message, ".ova" in found.hint) == (f"{tmp_path} is a folder", True)
    for name in ("a-flat.vmdk", "web.vmx"):
        (tmp_path / name).write_text("x")
    assert _refused(tmp_path).hint == f"Name the machine's file in it: {tmp_path / 'web.vmx'}, {tmp_path}/a-flat.vmdk."


@pytest.mark.parametrize("name", ["web.vmx", "web.ovf", "web.ova", "web.vmdk", "web.img"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert _refused(tmp_path / name).message == f"{tmp_path / name} is empty"


def test_what_cannot_be_opened_as_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "web.vmx")
    assert _refused(tmp_path / "web.vmx").message.endswith("is no file")
    (tmp_path / "loop.vmx").symlink_to("loop.vmx")
    assert _refused(tmp_path / "loop.vmx").code == "source_refused"
    with pytest.raises(Failed):
        on_host(tmp_path / "loop.vmx")


@pytest.mark.parametrize(("name", "word"), [("web.vmx", "memsize"), ("web.ovf", "XML"), ("web.vmdk", "image import")])
def test_a_text_of_another_kind_is_named(tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / name).write_text("hello, this is a text\nwith lines\n")
    found = _refused(tmp_path / name)
    assert name in found.message
    assert word in found.hint


def test_disks_of_other_kinds_are_led_to_images(tmp_path: Path) -> None:
    (tmp_path / "web.qcow2").write_bytes(b"QFI\xfb")
    assert "triune image import" in _refused(tmp_path / "web.qcow2").hint


def test_a_disk_that_is_none_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "web.vmx").write_text(VMX.format(file="web.vmdk"))
    (tmp_path / "web.vmdk").write_text("hello")
    assert "--skip scsi0:0" in _refused(tmp_path / "web.vmx").hint
