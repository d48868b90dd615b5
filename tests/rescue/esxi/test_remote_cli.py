"""The options of rescue commands for hosts, and the lists of what is on one."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.rescue import samples
from tests.rescue.esxi.conftest import NAME, SIZE
from tests.rescue.esxi.host import PASSWORD, Host, Manners
from triune.cli.rescue import hosts
from triune.cli.rescue.remote import access as access_told
from triune.cli.rescue.remote import remote
from triune.disks.source import FileSource
from triune.domain.errors import Denied, Invalid, NotFound
from triune.services.rescue import schemes
from triune.services.rescue.esxi import opening
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.inventory import Datastore, Device, Entry, Inventory, Machine

FOUND = Inventory(
    (
        Datastore(
            name="store 1",
            kind="VMFS 6.82",
            size=1 << 40,
            free=1 << 39,
            accessible=True,
            devices=("naa.6000:1", "naa.7:3"),
        ),
        Datastore(name="\x1b[31mbad", kind="VMFS", size=0, free=0, accessible=False),
    ),
    (Machine(name="web", state="poweredOff", guest="debian12_64Guest", vmx="[store 1] web/web.vmx"),),
    (Device(name="naa.6000", size=1 << 41, model="ATA disk"),),
)


@click.command()
@click.argument("source")
@click.option("--session", type=click.Path(path_type=Path))
@remote
def look(source: str, session: Path | None) -> None:
    """Read a little."""
    opened = schemes.open_plain(source, access_told(session))
    click.echo(f"{opened.size} {len(opened.read(0, 1000))}")
    opened.close()


def test_the_options_lead_to_a_device(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    address = host.address(NAME)
    with pytest.raises(Denied, match="unknown"):
        CliRunner().invoke(look, [address], catch_exceptions=False)
    with pytest.raises(Denied, match="wants a password"):
        CliRunner().invoke(look, [address, "--accept-new"], catch_exceptions=False)
    (tmp_path / "word").write_text(PASSWORD + "\n")
    done = CliRunner().invoke(look, [address, "--password-file", str(tmp_path / "word")], catch_exceptions=False)
    assert done.stdout == f"{SIZE} 1000\n"
    monkeypatch.setenv("TRIUNE_ESXI_PASSWORD", PASSWORD)
    done = CliRunner().invoke(look, [address, "--session", str(tmp_path / "session")], catch_exceptions=False)
    assert done.exit_code == 0
    assert len(list((tmp_path / "session" / "cache").iterdir())) == 1
    assert (tmp_path / ".config" / "triune" / "known_hosts").exists()
    del capfd


def test_schemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.img"
    path.write_bytes(b"abc")
    source = schemes.open_plain(str(path))
    assert isinstance(source, FileSource)
    source.close()
    names = [str(path), "esxi://h/vmfs/devices/disks/naa.1"]
    assert schemes.open_stores(names) == ([], names)
    assert [schemes.scheme(text) for text in ("a:b", "x", "ESXI://h", "esxi+ssh://h")] == ["", "", "esxi", "esxi+ssh"]
    assert schemes.parted("esxi://u@h:1/d s/a/b%25c") == ("esxi://u@h:1/d s", "a/b%c")
    assert [schemes.parted(text) for text in ("a", "esxi://h", "esxi://h/ds", "esxi+ssh://h/vmfs/volumes/ds/a")] == [
        None
    ] * 4
    with pytest.raises(Invalid, match="http://"):
        schemes.open_plain("http://h/x")
    (tmp_path / "http:").mkdir()
    (tmp_path / "http:" / "x").write_bytes(b"1")
    assert schemes.scheme("http://x") == ""
    with pytest.raises(NotFound):
        schemes.open_plain("no/such/file")


def test_what_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hosts.shown("esxi://h/vmfs/devices/disks/naa.1", Access(), "table")
    assert not hosts.shown("/tmp/esxi", Access(), "table")
    monkeypatch.setattr(opening, "list_folder", lambda address, access: None)
    assert not hosts.shown("esxi://h/ds/a.img", Access(), "table")


def test_a_host(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(opening, "list_host", lambda address, access: FOUND)
    hosts.shown("esxi://h", Access(), "table")
    shown = capsys.readouterr().out
    assert "store 1" in shown
    assert "naa.6000:1, naa.7:3" in shown
    assert "[store 1] web/web.vmx" in shown
    assert "\x1b" not in shown
    hosts.shown("esxi://h", Access(), "json")
    told = json.loads(capsys.readouterr().out)
    assert [len(told[what]) for what in ("datastores", "machines", "devices")] == [2, 1, 1]
    assert told["datastores"][0]["devices"] == ["naa.6000:1", "naa.7:3"]
    hosts.shown("esxi://h", Access(), "csv")
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [Entry("vm", True, 0, 0), Entry("a.iso", False, 4096, 1_700_000_000)]
    monkeypatch.setattr(opening, "list_folder", lambda address, access: entries)
    hosts.shown("esxi://h/ds", Access(), "table")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["SIZE", "MODIFIED", "PATH"],
        ["-", "-", "vm/"],
        ["4.0", "KiB", "2023-11-14", "22:13", "a.iso"],
    ]
    hosts.shown("esxi://h/ds/folder", Access(), "json")
    told = json.loads(capsys.readouterr().out)
    assert [(row["path"], row["kind"], row["volume"]) for row in told] == [
        ("folder/vm", "folder", "ds"),
        ("folder/a.iso", "file", "ds"),
    ]


def test_devices(host: Host, access: Access, capsys: pytest.CaptureFixture[str]) -> None:
    hosts.shown(host.address(""), access, "json")
    assert json.loads(capsys.readouterr().out)[0] == {"name": NAME, "size": SIZE, "model": ""}


def test_commands_on_a_device(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manners: Manners, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        whole = samples.image("vmfs6")
    except samples.Unfetched as reason:
        pytest.skip(str(reason))
    from triune.cli.root import main

    monkeypatch.setenv("TRIUNE_ESXI_PASSWORD", PASSWORD)
    manners.devices["naa.6"] = whole
    listed = []
    for source in (str(whole), host.address("naa.6")):
        assert main(["rescue", "ls", "-R", source, "--format", "json", *["--accept-new"][: source != str(whole)]]) == 0
        listed.append(json.loads(capsys.readouterr().out))
    assert listed[0] == listed[1]
    assert sum(length for _, length in manners.ranges) < 24 << 20  # of 2 GiB
    target = tmp_path / "out"
    assert main(["rescue", "extract", host.address("naa.6"), "big", "small", "--to", str(target), "-q"]) == 0
    assert main(["rescue", "extract", str(whole), "big", "small", "--to", str(tmp_path / "here"), "-q"]) == 0
    assert (target / "big").read_bytes() == (tmp_path / "here" / "big").read_bytes() != b""
    assert (target / "small").read_bytes() == (tmp_path / "here" / "small").read_bytes()


@pytest.mark.heavy
def test_a_damaged_device_is_scanned_as_its_image_would_be(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manners: Manners, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        whole = samples.image("vmfs6")
    except samples.Unfetched as reason:
        pytest.skip(str(reason))
    from triune.cli.root import main

    monkeypatch.setenv("TRIUNE_ESXI_PASSWORD", PASSWORD)
    damaged = tmp_path / "damaged.img"
    with whole.open("rb") as source, damaged.open("wb") as target:
        target.write(source.read(192 << 20))
        target.seek(0)
        target.write(bytes(18 << 20))  # partition table, LVM, and what is before the volume
    manners.devices["naa.6"] = damaged
    manners.drop_every = 301
    found = []
    for source, options in ((str(damaged), []), (host.address("naa.6"), ["--accept-new"])):
        session = tmp_path / f"session{len(found)}"
        status = main(["rescue", "scan", source, "--session", str(session), "--format", "json", *options])
        found.append((status, json.loads(capsys.readouterr().out)))
    assert found[0] == found[1]
    assert found[0][1]
    assert manners.connections > 2
    assert any(file["path"] == "small" and file["size"] == 5 for file in found[0][1][0]["files"])
    for number, source in enumerate((str(damaged), host.address("naa.6"))):
        assert main(["rescue", "cat", source, "small", "--session", str(tmp_path / f"session{number}")]) == 0
    told = capsys.readouterr().out
    assert told[: len(told) // 2] == told[len(told) // 2 :] != ""
