"""Folders of instances, and domains that another tool renamed."""

from __future__ import annotations

import shutil
import stat
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engines.kvm.plans import DIRECT, EMULATED, plan

from triune.domain.errors import Conflict, TriuneError
from triune.domain.operation import Silent
from triune.engines.kvm import folders, lifecycle, seed
from triune.engines.kvm.lifecycle import Lifecycle
from triune.engines.kvm.spec import Files, build
from triune.host import bindings

try:
    bindings.load("libvirt")
except ImportError:
    pytest.skip("libvirt's binding is not installed", allow_module_level=True)


class Domain:
    """As much of a libvirt domain as deleting takes."""

    def __init__(self, host: Host, name: str, xml: str) -> None:
        self._host, self._name, self._xml = host, name, xml

    def name(self) -> str:
        return self._name

    def XMLDesc(self, _flags: int) -> str:
        return self._xml

    def isActive(self) -> int:
        return 0

    def isPersistent(self) -> int:
        return 1

    def undefineFlags(self, _flags: int) -> None:
        del self._host.domains[self._name]


class Host:
    """A client and its connection."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.domains: dict[str, Domain] = {}

    def apart(self) -> Any:
        return nullcontext()

    def add(self, name: str, folder: str, *, managed: bool = True) -> Path:
        path = self.state_dir / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "disk.qcow2").write_bytes(b"precious")
        root = ET.fromstring(build(plan(), Files(folder=path), EMULATED))
        if not managed:
            metadata = root.find("metadata")
            assert metadata is not None
            root.remove(metadata)
        self.domains[name] = Domain(self, name, ET.tostring(root, encoding="unicode"))
        return path

    def find(self, name: str) -> Domain | None:
        return self.domains.get(name)

    def call(self, work: Callable[[Any], Any], **_: Any) -> Any:
        return work(self)

    def listAllDomains(self, _flags: int) -> list[Domain]:
        return list(self.domains.values())

    def errors(self, _name: str = "") -> Any:
        from contextlib import nullcontext

        return nullcontext()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def lives(host: Host) -> Lifecycle:
    return Lifecycle(host, host.state_dir)  # type: ignore[arg-type]


def test_the_disk_of_a_domain_that_virsh_renamed_is_not_taken_for_a_leftover(host: Host) -> None:
    folder = host.add("renamed", "one")
    with pytest.raises(Conflict) as caught:
        lives(host).create(plan(), EMULATED, Silent())
    assert caught.value.code == "folder_in_use"
    assert "renamed" in caught.value.message
    lives(host).delete("one")
    assert (folder / "disk.qcow2").read_bytes() == b"precious"


def test_a_domain_that_virsh_renamed_goes_with_its_folder(host: Host) -> None:
    folder = host.add("renamed", "one")
    lives(host).delete("renamed")
    assert not host.domains
    assert not folder.exists()


@pytest.mark.parametrize("name", ["Win_10 Test", "debian12.local", "..", "."])
def test_an_adopted_domain_of_any_name_is_removed(host: Host, name: str) -> None:
    folder = host.add(name, "elsewhere", managed=False)
    lives(host).delete(name)
    lives(host).delete(name)
    assert not host.domains
    assert folder.exists()


def test_a_leftover_without_a_domain_is_removed(host: Host) -> None:
    folder = host.add("gone", "gone")
    del host.domains["gone"]
    lives(host).delete("gone")
    assert not folder.exists()
    folders.require_free(host, folder)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("xorriso") is None, reason="xorriso is not installed")
def test_secrets_are_for_roots_eyes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "make_disk", lambda _plan, files: files.disk.touch())
    launch = plan(replace(DIRECT, cloud_init=True), env={"PASSWORD": "s3cret"}, user_data="#cloud-config\n")
    files = Files(folder=host.state_dir / "one")
    with pytest.raises((AttributeError, TriuneError)):  # this host defines nothing
        lives(host).create(launch, EMULATED, Kept(files.folder))
    assert modes(Path(f"{files.folder}.kept")) == {"environment.json": 0o600, "seed.iso": 0o600}
    assert seed.tool()


class Kept(Silent):
    """Copies the files before the domain is defined."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def step(self, name: str, text: str) -> None:
        del text
        if name == "kvm-define":
            shutil.copytree(self._folder, f"{self._folder}.kept")


def modes(folder: Path) -> dict[str, int]:
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    found.pop("disk.qcow2")
    return found
