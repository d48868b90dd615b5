"""Drivers for virtio: the tool is found or missed, told of, ended, and leaves nothing but its effect."""

from __future__ import annotations

import os
import re
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from triune.domain.errors import Cancelled, Failed, Unsupported
from triune.domain.machine import Machine
from triune.services.machines import injecting

MACHINE = Machine(name="web", guest="debian12-64")
GOOD = """printf '{"type":"message","message":"Inspecting the source"}\\n'
printf '{"type":"warning","message":"no\\\\n way to update Grub2"}\\n'
printf 'not JSON\\n{"type":"info"}\\n[]\\n'
"""

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    places = tmp_path / "bin"
    places.mkdir()
    monkeypatch.setattr(injecting, "_PLACES", str(places))
    monkeypatch.setattr(injecting, "_APART", ())  # needs root

    monkeypatch.setenv("SUPERMIN_KERNEL", "/vmlinuz")

    def put(script: str) -> None:
        for name, text in ((injecting.TOOL, script), ("nbdkit", "true")):
            (places / name).write_text(f"#!/bin/sh\n{text}")
            (places / name).chmod(0o755)

    return put


def injected(tmp_path: Path, told: list[str] | None = None, limit: float = 60) -> injecting.Injected:
    disks = [("scsi0:0", tmp_path / "a.qcow2"), ("ide0:0", tmp_path / "b.qcow2")]
    tell = (told if told is not None else []).append
    return injecting.inject(MACHINE, disks, tmp_path / "work" / "one", tell, limit=limit)


def test_it_gets_the_disks_and_is_told_of(install: Install, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    install(
        f'for last; do :; done; cp "$last" {seen}.xml; env > {seen}.env; echo "$@" > {seen}.argv\n{GOOD}sleep 0.5\n'
    )
    told: list[str] = []
    done = injected(tmp_path, told)
    assert (done.tool, done.warnings) == ("virt-v2v-in-place", ("no way to update Grub2",))
    assert any(text.startswith("Inspecting the source (") for text in told)
    disks = ET.parse(f"{seen}.xml").findall("devices/disk")
    found = [(disk.find("source"), disk.find("driver"), disk.find("target")) for disk in disks]
    assert [tuple(dict(one.attrib) for one in row if one is not None) for row in found] == [
        ({"file": str(tmp_path / "a.qcow2")}, {"name": "qemu", "type": "qcow2"}, {"dev": "sda", "bus": "scsi"}),
        ({"file": str(tmp_path / "b.qcow2")}, {"name": "qemu", "type": "qcow2"}, {"dev": "hdb", "bus": "ide"}),
    ]
    assert f"LIBGUESTFS_CACHEDIR={tmp_path / 'work'}\n" in Path(f"{seen}.env").read_text()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ('printf \'{"type":"error","message":"no bootloader detected"}\\n\'; exit 1', "no bootloader detected"),
        ("echo one >&2; echo supermin: no kernel >&2; exit 1", "one / supermin: no kernel"),
        ('printf \'{"type":"info","message":"This guest does not have virtio drivers installed."}\\n\'', "has none"),
        ("exit 3", "no message"),
    ],
)
def test_what_fails_says_why(install: Install, tmp_path: Path, script: str, word: str) -> None:
    install(script)
    with pytest.raises(Failed) as caught:
        injected(tmp_path)
    assert caught.value.code == "drivers_failed"
    assert word in caught.value.message
    assert "--inject-drivers" in caught.value.hint
    assert list((tmp_path / "work").iterdir()) == []


def test_a_windows_without_a_driver_for_cards(install: Install, tmp_path: Path) -> None:
    said = "there is no virtio network driver for this version of Windows (6.1 x86_64).  virt-v2v looks in /win"
    install(f'printf \'{{"type":"warning","message":"{said}"}}\\n\'')
    assert [words for words in injected(tmp_path).warnings if "--card e1000e" in words]


def gone(mark: Path) -> bool:
    try:
        os.kill(int(mark.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("limit", [0.5, 60])
def test_it_is_ended_in_time_or_when_it_is_cancelled(install: Install, tmp_path: Path, limit: float) -> None:
    mark = tmp_path / "mark"
    install(f"echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 600")

    def tell(text: str) -> None:
        if limit > 1 and mark.exists():
            raise Cancelled("cancelled", "it was")

    begun = time.monotonic()
    with pytest.raises((Failed, Cancelled)) as caught:
        injecting.inject(MACHINE, [], tmp_path / "work" / "one", tell, limit=limit)
    assert caught.value.code == ("cancelled" if limit > 1 else "command_timeout")
    assert time.monotonic() - begun < 300
    assert not mark.exists() or gone(mark)
    assert list((tmp_path / "work").iterdir()) == []


def test_the_sockets_of_what_was_ended_go_too(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = tmp_path / "libguestfsAbCdEf"
    sockets.mkdir()
    monkeypatch.setattr(injecting, "_SOCKETS", re.compile(os.fsencode(tmp_path) + rb"/libguestfs\w{6}(?=/)"))
    install(f'exec {sys.executable} -c "import time; time.sleep(600)" path={sockets}/guestfsd.sock "$TMPDIR/in0"')
    noted = tmp_path / "work/one/sockets"

    def tell(text: str) -> None:
        if noted.is_symlink():
            raise Cancelled("cancelled", "it was")

    with pytest.raises(Cancelled):
        injecting.inject(MACHINE, [], tmp_path / "work" / "one", tell, limit=300)
    assert not sockets.exists()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_tool_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injecting, "_PLACES", str(tmp_path))
    with pytest.raises(Unsupported) as caught:
        injecting.require("debian12-64")
    assert (caught.value.code, "apt-get install" in caught.value.hint) == ("tool_missing", True)


def test_a_host_without_a_kernel(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("true")
    monkeypatch.delenv("SUPERMIN_KERNEL")
    monkeypatch.setattr(injecting, "_KERNELS", ((str(tmp_path), "vmlinu?-*"),))
    with pytest.raises(Unsupported) as caught:
        injecting.require("debian12-64")
    assert caught.value.code == "no_kernel"
    (tmp_path / "vmlinuz-6.1").touch()
    assert injecting.require("debian12-64").name == injecting.TOOL


def test_windows_needs_its_drivers(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("true")
    monkeypatch.setenv("VIRTIO_WIN", str(tmp_path / "virtio-win"))
    assert injecting.require("debian12-64").name == injecting.TOOL
    with pytest.raises(Unsupported) as caught:
        injecting.require("windows2019srv-64")
    assert caught.value.code == "no_virtio_win"
    (tmp_path / "virtio-win").mkdir()
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(tmp_path))
    with pytest.raises(Unsupported) as caught:
        injecting.require("windows2019srv-64")
    assert caught.value.code == "no_virt_tools"
    (tmp_path / "rhsrvany.exe").touch()
    assert injecting.require("windows2019srv-64").name == injecting.TOOL


@pytest.mark.parametrize(("number", "letters"), [(0, "a"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba")])
def test_names_of_disks(number: int, letters: str) -> None:
    assert injecting._letters(number) == letters
