"""Snapshots, clones and restored machines as libvirt's XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engines.kvm.plans import DIRECT, EMULATED, FILES, NIC, plan

from triune.domain.snapshot import Consistency, Snapshot
from triune.engines.base import ClonePlan
from triune.engines.kvm import clone_xml, drives, snapshot_xml
from triune.engines.kvm import mark as marks
from triune.engines.kvm.bases import MOST, Bases
from triune.engines.kvm.spec import Files, build

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=60)


def original(**spec: object) -> ET.Element:
    return ET.fromstring(build(plan(**spec), FILES, EMULATED))


@given(TEXT, st.none() | st.datetimes(timezones=st.just(UTC)), TEXT, st.sampled_from(list(Consistency)))
def test_what_libvirt_has_no_place_for_comes_back(
    comment: str, expires: datetime | None, schedule: str, consistency: Consistency
) -> None:
    if consistency is Consistency.MEMORY:
        consistency = Consistency.AGENT
    given_ = Snapshot(
        name="one", created=NOW, consistency=consistency, expires=expires, schedule=schedule, comment=comment,
        parent="zero",
    )  # fmt: skip
    root = original()
    text = snapshot_xml.recorded(given_, drives.writable(root), drives.untouched(root), root)
    found = snapshot_xml.read(text)
    assert found.snapshot == given_
    assert (found.external, found.disks) == (False, ("vda",))


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")))
def test_any_description_of_another_tool_is_a_comment(text: str) -> None:
    root = ET.Element("domainsnapshot")
    for tag, value in (("name", "x"), ("state", "running"), ("creationTime", "5"), ("description", text)):
        ET.SubElement(root, tag).text = value
    ET.SubElement(root, "memory", {"snapshot": "no"})
    found = snapshot_xml.read(ET.tostring(root, encoding="unicode")).snapshot
    assert found.name == "x"
    assert found.consistency in tuple(Consistency)
    if not text.startswith("triune: "):
        assert (found.comment, found.created) == (text, datetime.fromtimestamp(5, UTC))


def test_a_snapshot_of_the_past_with_broken_words_is_read() -> None:
    broken = 'why\ntriune: {"created": 7, "consistency": "best", "expires": "soon"}'
    root = ET.fromstring(
        "<domainsnapshot><name>x</name><state>shutoff</state><memory snapshot='external'/></domainsnapshot>"
    )
    ET.SubElement(root, "description").text = broken
    found = snapshot_xml.read(ET.tostring(root, encoding="unicode"))
    assert found.external
    assert (found.snapshot.comment, found.snapshot.expires) == ("why", None)


def copy_of(root: ET.Element, **more: object) -> ET.Element:
    values = {"name": "one", "new": "two", "created": NOW, "machine_id": "ab" * 16, "nics": (), **more}
    files = Files(folder=FILES.folder.with_name("two"))
    disks = {"vda": ((files.disk, "qcow2"), (Path("/layers/1/disk.qcow2"), "qcow2"), (Path("/images/b"), "raw"))}
    return ET.fromstring(clone_xml.build(root, ClonePlan(**values), FILES.folder, files, disks))  # type: ignore[arg-type]


def test_a_clone_shares_nothing_that_tells_it_from_its_original() -> None:
    first = original()
    card = replace(NIC, mac="52:54:00:00:00:02", address="10.87.0.9")
    second = copy_of(first, nics=(card,))
    told, before = ET.tostring(second, encoding="unicode"), ET.tostring(first, encoding="unicode")
    for own in (first.findtext("uuid"), NIC.mac, NIC.address, str(FILES.folder) + "/", "systemd.hostname=one"):
        assert own in before
        assert own not in told
    assert second.findtext("uuid") == "abababab-abab-abab-abab-abababababab"
    assert f"systemd.machine_id={'ab' * 16}" in (second.findtext("os/cmdline") or "")
    assert "systemd.hostname=two" in (second.findtext("os/cmdline") or "")
    mark = marks.read(second)
    assert mark is not None
    assert (mark.renew, mark.image, mark.addresses) == ("one", "debian/12", ((card.mac, "triune0", "10.87.0.9"),))
    assert len(second.findall("devices/interface")) == 1


def test_a_clones_chain_is_declared_to_its_end_and_not_given_to_qemu() -> None:
    second = copy_of(original())
    (drive,) = drives.writable(second)
    assert drive.backing == ((Path("/layers/1/disk.qcow2"), "qcow2"), (Path("/images/b"), "raw"))
    disk = drives.element(second, "vda")
    assert [one.get("relabel") for one in disk.iter("seclabel")] == ["no", "no"]
    innermost = disk.find("backingStore/backingStore/backingStore")
    assert innermost is not None
    assert len(innermost) == 0


def test_a_guest_without_an_agent_cannot_be_renewed() -> None:
    mark = marks.read(copy_of(original(form=replace(DIRECT, agent=False))))
    assert mark is not None
    assert mark.renew == ""


def test_bases_are_remembered_the_newest_first_to_stay(tmp_path: Path) -> None:
    bases = Bases(tmp_path, "u")
    assert bases.checkpoint("b0") is None
    assert bases.checkpoint(None) is None
    gone = [one for number in range(MOST + 2) for one in bases.add(f"b{number}", f"c{number}")]
    assert gone == ["c0", "c1"]
    assert bases.checkpoint("b1") is None
    assert bases.checkpoint("b2") == "c2"
    assert bases.checkpoints() == [f"c{number}" for number in range(2, MOST + 2)]
    (tmp_path / ".u.backups.json").write_text("{")
    assert bases.checkpoints() == []
