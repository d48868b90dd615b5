"""What a TPM remembers, on a tree of its own: where it lies, how it is copied, what is not followed."""

from __future__ import annotations

import os
import stat
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

import pytest

from triune.domain.errors import Failed, Unsupported
from triune.domain.instance import InstanceSpec
from triune.domain.machine import Machine, MachineDisk
from triune.engines.importing import MachinePlan
from triune.engines.kvm import tpm
from triune.engines.kvm.client import Client
from triune.engines.kvm.importing import KvmImporting
from triune.engines.kvm.spec import HostFacts

UUID = "4c4c4544-0000-2010-8020-80c04f202020"
BACKEND = '<backend type="emulator" version="2.0"/>'


def domain(backend: str = BACKEND, identity: str = UUID) -> ET.Element:
    text = f"<domain><uuid>{identity}</uuid><devices><tpm model='tpm-crb'>{backend}</tpm></devices></domain>"
    return ET.fromstring(text)


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tpm, "STATES", tmp_path / "swtpm")
    return tmp_path / "swtpm"


def test_where_it_lies(states: Path) -> None:
    assert tpm.memory(domain()) == states / UUID / "tpm2/tpm2-00.permall"
    assert tpm.memory(domain('<backend type="emulator" version="1.2"/>')) == states / UUID / "tpm1.2/tpm-00.permall"
    assert tpm.kept(domain(), "before") == states / UUID / "tpm2-00.permall.before"
    for other in ("", '<backend type="passthrough"><device path="/dev/tpm0"/></backend>'):
        assert (tpm.memory(domain(other)), tpm.kept(domain(other), "before")) == (None, None)
        assert not tpm.emulated(domain(other))


def test_put_replaces_what_was_there(states: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"sealed")
    for content in (b"sealed", b"anew"):
        source.write_bytes(content)
        tpm.put(source, domain())
        file = tpm.memory(domain())
        assert file is not None and file.read_bytes() == content
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in states.rglob("*") if path.is_file()] == ["tpm2-00.permall"]


def test_put_without_a_file_leaves_it(states: Path, tmp_path: Path) -> None:
    tpm.put(tmp_path / "none", domain())
    assert not states.exists()


def test_a_link_is_not_followed(states: Path, tmp_path: Path) -> None:
    """swtpm's user owns the folder: what root copies from there must not be another file of root's."""
    secret = tmp_path / "shadow"
    secret.write_text("root:")
    folder = states / UUID / "tpm2"
    folder.mkdir(parents=True)
    link = folder / "tpm2-00.permall"
    link.symlink_to(secret)
    with pytest.raises(Failed) as caught:
        tpm.copy(link, tmp_path / "copy")
    assert caught.value.code == "tpm_unreadable"
    assert not (tmp_path / "copy").exists()
    source = tmp_path / "source"
    source.write_bytes(b"sealed")
    tpm.put(source, domain())
    assert secret.read_text() == "root:"
    assert not link.is_symlink()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Failed):
        tpm.copy(tmp_path / "pipe", tmp_path / "copy")


def test_a_place_of_its_own_is_refused() -> None:
    elsewhere = '<backend type="emulator"><source type="dir" path="/srv/tpm"/></backend>'
    with pytest.raises(Unsupported) as caught:
        tpm.require_known_place(domain(elsewhere), "web")
    assert caught.value.code == "tpm_elsewhere"
    tpm.require_known_place(domain(), "web")


def test_a_host_without_swtpm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for program in ("swtpm", "swtpm_ioctl"):
        (tmp_path / program).touch(mode=0o755)
    assert not tpm.available(), "libvirt needs swtpm_setup too"
    with pytest.raises(Unsupported) as caught:
        tpm.require(domain(), "web")
    assert caught.value.hint and "apt-get install" in caught.value.hint
    tpm.require(ET.fromstring("<domain/>"), "web")
    (tmp_path / "swtpm_setup").touch(mode=0o755)
    tpm.require(domain(), "web")


def test_an_import_without_swtpm_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = HostFacts(accelerated=False, memory=8 << 30, cpus=4, cpu_cgroup=None, emulator="qemu")
    importing = KvmImporting(Client("test:///default"), tmp_path, lambda: host)
    machine = Machine(name="web", disks=(MachineDisk(slot="sata0:0", bus="sata"),), tpm=True)
    spec = InstanceSpec(name="web", image="", engine="kvm")
    plan = MachinePlan(spec=spec, machine=machine, created=datetime.now(UTC))
    monkeypatch.setattr(tpm, "available", lambda: False)
    (note,) = importing.check(plan)
    assert "apt-get install" in note and tpm.PACKAGES in note
    monkeypatch.setattr(tpm, "available", lambda: True)
    assert importing.check(plan) == []
