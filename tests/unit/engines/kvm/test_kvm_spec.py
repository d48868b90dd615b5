"""What a plan may ask for, and that nothing in it can break out of the XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engines.kvm.plans import ACCELERATED, DIRECT, EMULATED, FILES, GIB, NETWORK, NIC, plan

from triune.domain.errors import Invalid, TriuneError, Unsupported
from triune.domain.image import DiskForm, OciForm
from triune.domain.instance import VolumeMount
from triune.domain.network import Nic
from triune.engines.kvm import inventory, mark
from triune.engines.kvm.rename import moved
from triune.engines.kvm.settings import KNOWN
from triune.engines.kvm.spec import Files, HostFacts, build, check

BAD: list[tuple[dict[str, Any], type[TriuneError], str]] = [
    ({"memory": 9 * GIB}, Invalid, "bad_memory"),
    ({"memory": 0}, Invalid, "bad_memory"),
    ({"cpus": 5.0}, Invalid, "too_many_cpus"),
    ({"disk": GIB}, Invalid, "disk_too_small"),
    ({"command": ("nginx",)}, Unsupported, "command_unsupported"),
    ({"settings": {"machin": "pc"}}, Invalid, "unknown_setting"),
    ({"settings": {"machine": "vax"}}, Invalid, "bad_setting"),
    ({"settings": {"cpu": "a b"}}, Invalid, "bad_setting"),
    ({"env": {"A": "1\n2"}}, Invalid, "control_character"),
    ({"settings": {"cpu": "x\ny"}}, Invalid, "control_character"),
    ({"user_data": "#cloud-config"}, Unsupported, "no_cloud_init"),
    ({"volumes": (VolumeMount(source="/srv", target="/srv"),)}, Unsupported, "no_virtiofs"),
    ({"form": OciForm(id="sha256:1", reference="a")}, Unsupported, "no_disk_form"),
    ({"form": replace(DIRECT, cmdline="quiet\ninit=/bin/sh")}, Invalid, "control_character"),
    ({"form": replace(DIRECT, format="vhdx")}, Invalid, "bad_format"),
    ({"form": replace(DIRECT, path=None, virtual_size=0)}, Invalid, "no_disk_size"),
    ({"nics": (Nic(network=replace(NETWORK, bridge="br\n0"), mac=NIC.mac, address=""),)}, Invalid, "control_character"),
]


@pytest.mark.parametrize(("asked", "kind", "code"), BAD)
def test_what_cannot_be_is_refused_with_a_hint(asked: dict[str, Any], kind: type[TriuneError], code: str) -> None:
    with pytest.raises(kind) as caught:
        check(plan(**asked), EMULATED)
    assert caught.value.code == code
    assert caught.value.hint


def test_the_nearest_setting_is_named() -> None:
    with pytest.raises(Invalid) as caught:
        check(plan(settings={"grafics": "vnc"}), EMULATED)
    assert "graphics" in caught.value.hint


def test_too_much_memory_is_told_with_figures() -> None:
    with pytest.raises(Invalid) as caught:
        check(plan(memory=9 * GIB), EMULATED)
    assert "9216 MiB" in caught.value.message
    assert "8192 MiB" in caught.value.message


def test_a_fraction_of_a_cpu_needs_the_controller() -> None:
    check(plan(cpus=0.5), EMULATED)
    with pytest.raises(Unsupported):
        check(plan(cpus=0.5), replace(EMULATED, cpu_cgroup=None))


def test_a_read_only_volume_is_refused_rather_than_writable() -> None:
    with pytest.raises(Unsupported) as caught:
        check(plan(volumes=(VolumeMount(source="/a", target="/b", read_only=True),)), ACCELERATED)
    assert caught.value.code == "read_only_volume"


@given(st.text(max_size=60))
def test_no_text_breaks_out(text: str) -> None:
    hostile = plan(replace(DIRECT, cmdline=text), env={"A": text}, volumes=())
    try:
        check(hostile, EMULATED)
        xml = build(hostile, FILES, EMULATED)
    except (Invalid, UnicodeEncodeError):
        return
    root = ET.fromstring(xml)
    assert root.findtext("os/cmdline", "").startswith(text.strip() if text.strip() == text else "")
    assert {child.tag for child in root} <= {
        "name", "uuid", "metadata", "memory", "vcpu", "os", "features", "cpu", "clock", "on_poweroff", "on_reboot",
        "on_crash", "devices",
    }  # fmt: skip
    found = mark.read(root)
    assert found is not None
    assert found.image == "debian/12"


def test_a_secret_is_not_in_what_libvirt_shows_everybody() -> None:
    assert "s3cret" not in build(plan(env={"PASSWORD": "s3cret"}), FILES, EMULATED)


def test_what_others_use_too_is_not_given_to_qemus_user() -> None:
    installer = DiskForm(path=None, iso=Path("/images/installer.iso"))
    for form, path in ((DIRECT, "/images/base.qcow2"), (installer, "/images/installer.iso")):
        root = ET.fromstring(build(plan(form, disk=GIB), FILES, EMULATED))
        (source,) = [one for one in root.iter("source") if one.get("file") == path]
        assert [label.attrib for label in source] == [{"model": "dac", "relabel": "no"}]
        (own,) = [one for one in root.iter("source") if one.get("file") == str(FILES.disk)]
        assert len(own) == 0


def test_the_mark_is_read_back() -> None:
    root = ET.fromstring(build(plan(settings={"bus": "sata"}), FILES, EMULATED))
    found = mark.read(root)
    assert found is not None
    assert found.image == "debian/12"
    assert found.agent
    assert found.addresses == ((NIC.mac, "triune0", "10.87.0.5"),)
    assert found.settings == {"bus": "sata"}


def test_a_broken_mark_counts_as_none() -> None:
    root = ET.fromstring(build(plan(), FILES, EMULATED))
    created = root.find(f".//{{{mark.NAMESPACE}}}created")
    assert created is not None
    created.text = "yesterday"
    assert mark.read(root) is None


def test_every_setting_changes_the_xml() -> None:
    other = {"firmware": "uefi", "machine": "pc", "cpu": "EPYC", "bus": "sata", "graphics": "vnc"} | {
        "devices": "minimal"
    }
    plain = build(plan(), FILES, EMULATED)
    for key in set(KNOWN) - {"autostart"}:
        assert build(plan(settings={key: other[key]}), FILES, EMULATED) != plain


def test_an_accelerated_vm_gets_the_model_that_was_proved() -> None:
    def cpu(host: HostFacts, **asked: Any) -> dict[str, str | None]:
        element = ET.fromstring(build(plan(**asked), FILES, host)).find("cpu")
        assert element is not None
        return {"mode": element.get("mode"), "model": element.findtext("model")}

    plain = replace(ACCELERATED, cpu_model="qemu64")
    assert cpu(ACCELERATED) == {"mode": "host-passthrough", "model": None}
    assert cpu(plain) == {"mode": "custom", "model": "qemu64"}
    assert cpu(plain, settings={"cpu": "host-model"})["mode"] == "host-model"
    assert cpu(replace(EMULATED, cpu_model="qemu64"))["mode"] == "maximum"


@pytest.mark.parametrize(
    ("state", "reason", "want"),
    [
        (1, 0, "running"),
        (3, 1, "paused"),
        (3, 5, "error"),
        (5, 1, "stopped"),
        (5, 3, "error"),
        (6, 0, "error"),
        (99, 0, "error"),
    ],
)
def test_states(state: int, reason: int, want: str) -> None:
    row = inventory.row(ET.fromstring(build(plan(cpus=1.5), FILES, EMULATED)), state, reason)
    assert row.state == want
    assert (row.error is not None) == (want == "error")
    assert row.cpus == 1.5
    assert row.memory_bytes == 512 * 2**20
    assert row.accelerated is False


def test_renaming_moves_own_paths_only() -> None:
    uefi = plan(settings={"firmware": "uefi"})
    new = Files(folder=Path("/var/lib/triune/instances/kvm/two"))
    for xml in (build(plan(), FILES, EMULATED), build(uefi, FILES, EMULATED)):
        after = moved(xml, FILES, new)
        assert "/kvm/one" not in after
        assert "/kvm/two/disk.qcow2" in after
        assert "/images/base.qcow2" in after
    assert "systemd.hostname=two" in moved(build(plan(), FILES, EMULATED), FILES, new)
