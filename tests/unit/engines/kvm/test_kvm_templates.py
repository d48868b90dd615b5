"""Templates without libvirt: what they are of, what starts from them, what lies on disk."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.engines.kvm.plans import ACCELERATED, DIRECT, EMULATED, FILES, GIB, NIC, plan

from triune.domain.image import DiskForm, OciForm
from triune.domain.instance import VolumeMount
from triune.engines.base import LaunchPlan
from triune.engines.kvm import templates_make
from triune.engines.kvm import templates_spec as spec
from triune.engines.kvm.names import is_template
from triune.engines.kvm.spec import Files, build
from triune.engines.kvm.templates_disk import Shelf, Template

WHEN = datetime(2026, 1, 2, tzinfo=UTC)
VERSIONS = {"qemu": "7002000", "libvirt": "9000000"}


@pytest.fixture
def form(tmp_path: Path) -> DiskForm:
    for name in ("base.qcow2", "vmlinuz", "initrd"):
        (tmp_path / name).write_text(name)
    return replace(DIRECT, path=tmp_path / "base.qcow2", kernel=tmp_path / "vmlinuz", initrd=tmp_path / "initrd")


def key(of: LaunchPlan, **versions: str) -> str:
    return spec.key(spec.facts(of, EMULATED, {**VERSIONS, **versions}))


def test_what_one_instance_has_makes_no_other_template(form: DiskForm) -> None:
    one = plan(form)
    other = replace(
        plan(form, name="two", disk=9 * GIB, env={"A": "b"}, settings={"autostart": "true"}, nics=(NIC, NIC)),
        machine_id="f" * 32,
        created=WHEN,
    )
    assert key(one) == key(other)


@pytest.mark.parametrize(
    "change",
    [{"memory": GIB}, {"cpus": 2}, {"settings": {"machine": "pc"}}, {"settings": {"cpu": "EPYC"}}],
)
def test_another_machine_is_another_template(form: DiskForm, change: dict[str, Any]) -> None:
    assert key(plan(form)) != key(plan(form, **change))


def test_a_part_of_a_cpu_is_a_grant_and_no_other_machine(form: DiskForm) -> None:
    assert key(plan(form, cpus=1.5)) == key(plan(form, cpus=2))


def test_what_it_was_made_with_counts(form: DiskForm) -> None:
    before = key(plan(form))
    assert key(plan(form), qemu="8000000") != before
    assert spec.key(spec.facts(plan(form), ACCELERATED, VERSIONS)) != before
    assert form.path is not None
    form.path.write_text("rebuilt under the same path")
    assert key(plan(form)) != before


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (plan(), ""),
        (plan(user_data="#cloud-config\n"), "first boot"),
        (plan(volumes=(VolumeMount(source="/a", target="/b"),)), "volumes"),
        (plan(settings={"graphics": "vnc"}), "display"),
        (plan(settings={"firmware": "uefi"}), "firmware"),
        (plan(replace(DIRECT, kernel=None)), "firmware"),
        (plan(replace(DIRECT, agent=False)), "agent"),
        (plan(DiskForm(path=None, iso=Path("/i.iso"))), "installer"),
        (plan(OciForm(id="sha256:0", reference="a")), "disk"),
        (replace(plan(), machine_id=""), "machine id"),
    ],
)
def test_why_not(given: LaunchPlan, why: str) -> None:
    found = spec.why_not(given)
    assert bool(found) == bool(why)
    assert why in found


def saved() -> str:
    """A template's XML as libvirt saves it: with addresses, an id, the paths and sockets of that time."""
    files = Files(folder=Path("/templates/x.part"))
    root = ET.fromstring(spec.template_xml(plan(), files, EMULATED, "triune_template_x", aside=True))
    root.set("id", "7")
    disk = root.find("devices/disk")
    assert disk is not None
    ET.SubElement(disk, "address", {"type": "pci", "bus": "0x02"})
    for number, kind in enumerate(("serial", "console", "channel")):
        for device in root.findall(f"devices/{kind}"):
            ET.SubElement(device, "source", {"path": f"/dev/pts/{number}"})
    return ET.tostring(root, encoding="unicode")


def test_the_restored_machine_is_the_saved_one_under_the_instances_name() -> None:
    wanted = plan(cpus=0.5)
    root = ET.fromstring(spec.clone_xml(saved(), build(wanted, FILES, EMULATED), FILES))
    assert root.findtext("name") == "one"
    assert root.findtext("uuid") == "01234567-89ab-cdef-0123-456789abcdef"
    assert root.find("metadata/{*}instance") is not None
    assert root.findtext("cputune/global_quota") == "50000"
    assert root.find("cputune/shares") is None, "what holds a template back must not hold its copies"
    assert "systemd.hostname=one" in root.findtext("os/cmdline", "")
    assert root.find("devices/disk/source").get("file") == str(FILES.disk)  # type: ignore[union-attr]
    assert root.find("devices/disk/address") is not None, "the guest knows its devices at these addresses"
    assert root.find("devices/interface") is None
    text = ET.tostring(root, encoding="unicode")
    assert "/dev/pts" not in text
    assert "template" not in text


def test_a_limit_of_the_disk_holds_from_the_start() -> None:
    cold = ET.fromstring(build(plan(), FILES, EMULATED))
    disk = cold.find("devices/disk")
    assert disk is not None
    ET.SubElement(ET.SubElement(disk, "iotune"), "read_iops_sec").text = "100"
    root = ET.fromstring(spec.clone_xml(saved(), ET.tostring(cold, encoding="unicode"), FILES))
    assert root.findtext("devices/disk/iotune/read_iops_sec") == "100"


def test_cards_come_afterwards() -> None:
    (card,) = spec.cards(build(plan(), FILES, EMULATED))
    assert NIC.mac in card
    assert spec.cards(build(plan(nics=()), FILES, EMULATED)) == []


def test_the_template_is_no_instance_and_gives_way() -> None:
    root = ET.fromstring(spec.template_xml(plan(), FILES, EMULATED, "triune_template_x", aside=True))
    assert is_template(root.findtext("name", ""))
    assert root.find("metadata") is None
    assert root.findtext("cputune/shares") == "256"
    assert not is_template("triune-template-x")


def test_two_daemons_may_make_templates_at_once() -> None:
    first, again, other = (
        ET.fromstring(spec.template_xml(plan(), FILES, EMULATED, name, aside=True)).findtext("uuid")
        for name in ("triune_template_x", "triune_template_x", "triune_template_y")
    )
    assert first == again != other


def test_the_waiting_port() -> None:
    xml = """<domain><devices>
        <channel><source path='/a'/><target name='triune.exec.0' state='connected'/></channel>
        <channel><source path='/b'/><target name='triune.exec.3' state='{}'/></channel></devices></domain>"""
    assert spec.waiting_socket(xml) == "/b"
    assert spec.waits(xml.format("connected"))
    assert not spec.waits(xml.format("disconnected"))
    assert spec.waiting_socket("<domain/>") == ""
    assert not spec.waits("<domain/>")


class Domain:
    """Keeps how it was saved."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def save(self, path: str) -> None:
        self.calls.append(path)

    def saveParams(self, params: dict[str, str], flags: int) -> None:
        self.calls.append((params, flags))


@pytest.mark.parametrize("chooses", [False, True])
def test_the_memory_is_saved_raw_where_that_can_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chooses: bool
) -> None:
    words = {"VIR_DOMAIN_SAVE_PARAM_FILE": "file", "VIR_DOMAIN_SAVE_PARAM_IMAGE_FORMAT": "image_format"}
    monkeypatch.setattr(templates_make, "library", lambda: SimpleNamespace(**(words if chooses else {})))
    domain, path = Domain(), str(tmp_path / "memory")
    templates_make._save(domain, tmp_path / "memory")
    assert domain.calls == [({"file": path, "image_format": "raw"}, 0) if chooses else path]


class TestShelf:
    def publish(self, shelf: Shelf, name: str, **more: str) -> Template:
        folder = shelf.begin(name)
        (folder / "memory").write_bytes(b"m" * 9000)
        template = Template(
            key=name, folder=shelf.root / name, image="debian/12", created=WHEN, facts={"qemu": "7"}, **more
        )
        shelf.publish(template)
        return template

    def test_what_is_published_is_found(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path / "templates")
        assert list(shelf.all()) == []
        template = self.publish(shelf, "k", token="t")
        assert shelf.find("k") == template
        assert template.size() >= 9000
        self.publish(shelf, "k", token="newer")
        (found,) = shelf.all()
        assert found.token == "newer"
        shelf.drop("k")
        shelf.drop("k")
        assert shelf.find("k") is None
        assert template.size() == 0

    def test_what_is_half_made_is_not_there_and_swept(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        (shelf.begin("half") / "memory").write_bytes(b"m")
        (shelf.begin("now") / "memory").write_bytes(b"m")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "template.json").write_text('{"image": 1}')
        self.publish(shelf, "good")
        assert [template.key for template in shelf.all()] == ["good"]
        shelf.sweep(busy={"now"})
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["good", "now.part"]

    def test_a_record_without_its_memory_is_none(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        template = self.publish(shelf, "k")
        template.memory.unlink()
        assert shelf.find("k") is None

    def test_a_failure_is_remembered_without_memory(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        shelf.begin("k")
        shelf.publish(Template(key="k", folder=tmp_path / "k", image="i/1", created=WHEN, failed="it has no Perl"))
        found = shelf.find("k")
        assert found is not None
        assert found.failed == "it has no Perl"
