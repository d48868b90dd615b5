"""What `verify`, `--repair` and `preview` say, and that a source is never written to."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rescue.fakes import FakeVolume
from tests.vmdks import Bytes, MemoryFolder, cowd, from_raw, oracle, sample, whole
from triune.cli.rescue.root import rescue
from triune.disks import vmdk_descriptor
from triune.disks.stream import SourceContent
from triune.disks.vmdk_descriptor import ExtentLine, compose
from triune.disks.vmdk_disk import open_disk
from triune.domain.errors import Denied, Invalid, TriuneError
from triune.services.rescue.descriptors import propose
from triune.services.rescue.folders import HostFolder
from triune.services.rescue.guest_disks import disk_on_host, disk_on_volume
from triune.services.rescue.preview import Picture, as_text, hexdump, picture
from triune.services.rescue.verify import Finding, Level, verify_disk, verify_file

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
MIB = 1 << 20


def invoke(*argv: str | Path) -> Result:
    return CliRunner().invoke(rescue, [str(each) for each in argv], standalone_mode=False)


def chain(folder: Path) -> Path:
    """A thin disk, and a snapshot of it."""
    (folder / "web-flat.vmdk").write_bytes(b"data" * 1024 + bytes(2 * MIB - 4096))
    lines = (ExtentLine("RW", 4096, "VMFS", "web-flat.vmdk"),)
    (folder / "web.vmdk").write_bytes(compose(lines, create_type="vmfs", cid=0xA1).encode())
    (folder / "web-000001-delta.vmdk").write_bytes(cowd(2 * MIB, {9: b"new"}))
    lines = (ExtentLine("RW", 4096, "VMFSSPARSE", "web-000001-delta.vmdk"),)
    top = compose(lines, create_type="vmfsSparse", cid=0xB2, parent=(0xA1, "web.vmdk"))
    (folder / "web-000001.vmdk").write_bytes(top.encode())
    return folder / "web-000001.vmdk"


def findings(path: Path) -> list[Finding]:
    with disk_on_host(path) as disk:
        return list(verify_disk(disk))


def bad(path: Path) -> list[str]:
    return [each.text for each in findings(path) if each.level is Level.BAD]


@pytest.mark.parametrize(
    ("text", "said"),
    [("garbage", "web.vmdk holds none"), ('RW 100 VMFS "web-flat.vmdk"', "holds 2097152 bytes, not 51200")],
)
def test_a_descriptor_that_its_extents_contradict(tmp_path: Path, text: str, said: str) -> None:
    chain(tmp_path)
    path = tmp_path / "web.vmdk"
    assert invoke("verify", path).return_value == 0
    told = path.read_text().replace('RW 4096 VMFS "web-flat.vmdk"', text)
    path.write_text(told if text.startswith("RW") else text)
    done = invoke("verify", path)
    assert done.return_value == 1
    assert said in done.output and "--repair" in done.output


def test_a_whole_chain_has_nothing_bad(tmp_path: Path) -> None:
    top = chain(tmp_path)
    assert not bad(top)
    done = invoke("verify", top)
    assert done.return_value == 0 and "web-000001.vmdk on web.vmdk" in done.output


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "web.vmdk").unlink(), "'web.vmdk' of web-000001.vmdk is missing"),
        (lambda folder: (folder / "web-flat.vmdk").write_bytes(b"x" * MIB), "ends 1048576 bytes before"),
        (lambda folder: (folder / "web-000001-delta.vmdk").unlink(), "there is no 'web-000001-delta.vmdk'"),
        (
            lambda folder: changed(folder / "web.vmdk", "CID=000000a1", "CID=000000a2"),
            "in the state 000000a1, it is in",
        ),
        (lambda folder: changed(folder / "web.vmdk", "RW 4096", "RW 8192"), "ends 2097152 bytes before"),
    ],
)
def test_what_is_wrong_with_a_chain_is_said(tmp_path: Path, damage, said: str) -> None:
    top = chain(tmp_path)
    damage(tmp_path)
    assert any(said in text for text in bad(top)), bad(top)
    assert invoke("verify", top).return_value == 1


def test_grains_in_the_same_place_are_told(tmp_path: Path) -> None:
    data = bytearray(cowd(MIB, {3: b"three", 4: b"four"}))
    (tmp_path / "d.vmdk").write_bytes(data)
    assert any("2, each in a place of its own" in each.text for each in findings(tmp_path / "d.vmdk"))
    at = 5 * 512 + 3 * 4
    data[at : at + 4] = data[at + 4 : at + 8]
    (tmp_path / "d.vmdk").write_bytes(data)
    assert any("1 of 2 lie where another one does" in text for text in bad(tmp_path / "d.vmdk"))


def changed(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_wrong_cid_is_shown_and_only_then_mended(tmp_path: Path) -> None:
    top = chain(tmp_path)
    changed(tmp_path / "web.vmdk", "CID=000000a1", "CID=000000a2")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shown = invoke("verify", top, "--repair")
    assert shown.return_value == 0 and "-parentCID=000000a1" in shown.output and "+parentCID=000000a2" in shown.output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert invoke("verify", top, "--repair", "--apply").return_value == 0
    assert not bad(top)
    assert (tmp_path / "web-000001.vmdk.before-repair").read_bytes() == before["web-000001.vmdk"]
    assert "Nothing to repair" in invoke("verify", top, "--repair").output


@needs_qemu_img
@pytest.mark.parametrize("name", ["web.vmdk", "web-000001.vmdk"])
def test_a_lost_descriptor_is_made_again(tmp_path: Path, name: str) -> None:
    top = chain(tmp_path)
    truth = oracle(top)
    vmx = b'virtualHW.version = "8"\nscsi0.virtualDev = "buslogic"\nscsi0:0.fileName = "web-000001.vmdk"\n'
    (tmp_path / "vm.vmx").write_bytes(vmx)
    (tmp_path / name).unlink()
    if name == "web-000001.vmdk":
        assert isinstance(invoke("verify", tmp_path / name, "--repair").exception, Invalid)
        argv = ["verify", tmp_path / name, "--repair", "--apply", "--parent", "web.vmdk"]
    else:
        argv = ["verify", tmp_path / name, "--repair", "--apply"]
    assert invoke(*argv).return_value == 0
    with HostFolder(tmp_path) as folder:
        disk = open_disk(folder, "web-000001.vmdk")
        assert whole(disk) == (truth, []) and not disk.damages()
    assert oracle(top) == truth
    made = vmdk_descriptor.parse((tmp_path / name).read_bytes())
    assert made.ddb["virtualhwversion"] == "8" and made.ddb.get("adaptertype", "buslogic") == "buslogic"


@needs_qemu_img
def test_split_extents_and_renamed_ones(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"12345678" * 100_000)
    from_raw(tmp_path / "raw", tmp_path / "d.vmdk", "twoGbMaxExtentSparse")
    truth = oracle(tmp_path / "d.vmdk")
    (tmp_path / "d.vmdk").unlink()
    assert invoke("verify", tmp_path / "d.vmdk", "--repair", "--apply").return_value == 0
    assert oracle(tmp_path / "d.vmdk") == truth
    (tmp_path / "d-s001.vmdk").rename(tmp_path / "e-s001.vmdk")
    (tmp_path / "d.vmdk").rename(tmp_path / "e.vmdk")
    assert bad(tmp_path / "e.vmdk")
    assert invoke("verify", tmp_path / "e.vmdk", "--repair", "--apply").return_value == 0
    assert oracle(tmp_path / "e.vmdk") == truth and not bad(tmp_path / "e.vmdk")


def test_names_with_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    inner = tmp_path / "disks"
    inner.mkdir()
    (inner / "d-flat.vmdk").symlink_to("../secret")
    (inner / "d.vmdk").write_bytes(compose((ExtentLine("RW", 8, "VMFS", "d-flat.vmdk"),), create_type="vmfs").encode())
    with disk_on_host(inner / "d.vmdk") as disk:
        (run,) = disk.disk.runs() if disk.disk else ()
    assert run.missing


def test_a_machine_and_its_files(tmp_path: Path) -> None:
    chain(tmp_path)
    lines = ['guestOS = "debian12-64"', 'displayName = "web"', 'scsi0:0.fileName = "web.vmdk"', 'nvram = "web.nvram"',
             'scsi0:1.fileName = "gone.vmdk"', "nonsense"]  # fmt: skip
    (tmp_path / "web.vmx").write_text("\n".join(lines))
    with HostFolder(tmp_path) as folder:
        told = {each.what: each for each in verify_file(folder, "web.vmx") or ()}
    assert told["scsi0:0"].level is Level.OK and told["scsi0:1"].level is Level.BAD
    assert told["nvram"].level is Level.WARNING and "1 line can" in told["lines"].text
    done = invoke("verify", tmp_path / "web.vmx")
    assert done.return_value == 1 and "gone.vmdk" in done.output
    assert "displayName" in invoke("preview", tmp_path / "web.vmx").output


def test_a_volume_is_never_written_to(tmp_path: Path) -> None:
    done = invoke("verify", tmp_path / "datastore.img", "web/web.vmdk", "--repair", "--apply")
    assert isinstance(done.exception, Denied)


def test_files_are_never_changed_by_looking(tmp_path: Path) -> None:
    top = chain(tmp_path)
    before = {path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
              for path in tmp_path.iterdir()}  # fmt: skip
    for argv in (["verify", top], ["preview", top], ["inside", top, "ls"], ["preview", top, "--as", "hex"]):
        invoke(*argv)
    assert before == {path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
                      for path in tmp_path.iterdir()}  # fmt: skip


def test_hex_text_and_pictures() -> None:
    assert list(hexdump(b"A" * 64 + b"\x00\xff", 16)) == [
        "00000010  41 41 41 41 41 41 41 41  41 41 41 41 41 41 41 41  |AAAAAAAAAAAAAAAA|",
        "*",
        "00000050  00 ff                                             |..|",
    ]
    assert as_text(b"plain\ntext") and as_text(b"\x00\x01") is None and as_text(bytes(range(128, 256))) is None
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x00\0\0\0\x80"
    assert picture(png) == Picture("PNG", 256, 128) and picture(b"GIF89a\x02\0\x03\0") == Picture("GIF", 2, 3)
    assert picture(b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x0b\x08\0\x10\0\x20") == Picture("JPEG", 32, 16)
    assert picture(b"\xff\xd8\xff") is None


def test_nothing_is_proposed_for_what_is_right() -> None:
    folder = MemoryFolder({"d.vmdk": sample("monolithicFlat.vmdk"), "monolithicFlat-flat.vmdk": bytes(20480 * 512)})
    assert propose(folder, "d.vmdk") is None
    assert propose(MemoryFolder({"d.vmdk": sample("plaso-image.vmdk")}), "d.vmdk") is None
    with pytest.raises(Invalid):
        propose(MemoryFolder({"d.vmdk": cowd(4096, {})}), "d.vmdk")


@needs_qemu_img
def test_a_descriptor_within_a_disk(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"12345678" * 100_000)
    from_raw(tmp_path / "raw", tmp_path / "base.vmdk", "monolithicSparse")
    qemu = ["qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "top.vmdk"]
    subprocess.run(qemu, check=True, cwd=tmp_path)
    subprocess.run(["qemu-io", "-f", "vmdk", "-c", "write -P 7 64k 64k", tmp_path / "top.vmdk"], check=True)
    truth = oracle(tmp_path / "top.vmdk")
    data = bytearray((tmp_path / "base.vmdk").read_bytes())
    data[512 : 21 * 512] = bytes(20 * 512)
    (tmp_path / "base.vmdk").write_bytes(data)
    assert bad(tmp_path / "top.vmdk")
    assert invoke("verify", tmp_path / "base.vmdk", "--repair", "--apply").return_value == 0
    assert oracle(tmp_path / "top.vmdk") == truth and not bad(tmp_path / "top.vmdk")
    base = (tmp_path / "base.vmdk").read_bytes()
    cid = base.index(b"CID=")
    (tmp_path / "base.vmdk").write_bytes(base[: cid + 4] + b"12345678" + base[cid + 12 :])
    assert invoke("verify", tmp_path / "top.vmdk", "--repair", "--apply").return_value == 0
    assert oracle(tmp_path / "top.vmdk") == truth and not bad(tmp_path / "top.vmdk")


@needs_qemu_img
def test_inside_takes_files_out(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("content\n")
    with (tmp_path / "raw").open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-d", tmp_path / "tree", tmp_path / "raw"], check=True)
    from_raw(tmp_path / "raw", tmp_path / "d.vmdk", "monolithicFlat")
    assert "ext2" in invoke("inside", tmp_path / "d.vmdk", "ls").output
    assert "file" in invoke("inside", tmp_path / "d.vmdk", "ls", "disk").output
    assert invoke("inside", tmp_path / "d.vmdk", "cat", "file").output == "content\n"
    done = invoke("inside", tmp_path / "d.vmdk", "extract", "", "--to", tmp_path / "out")
    assert done.return_value == 0 and (tmp_path / "out/disk/file").read_text() == "content\n"
    assert "disk: ext2" in invoke("preview", tmp_path / "d.vmdk").output


def test_disks_on_a_volume(tmp_path: Path) -> None:
    chain(tmp_path)
    volume = FakeVolume()
    for path in tmp_path.iterdir():
        where = "web/" if path.name.startswith("web-000001") else "base/"
        volume.add(f"{where}{path.name}", path.read_bytes())
    text = (tmp_path / "web-000001.vmdk").read_text()
    for hint, found in (
        ("../base/web.vmdk", True),
        ("/vmfs/volumes/store/base/web.vmdk", True),
        ("/vmfs/volumes/5f0-1/base/web.vmdk", True),
        ("/vmfs/volumes/other/base/web.vmdk", False),
        ("../../base/web.vmdk", False),
        ("/etc/passwd", False),
    ):
        content = text.replace('Hint="web.vmdk"', f'Hint="{hint}"').encode()
        key = volume.facts["web/web-000001.vmdk"].key
        volume.contents[key] = SourceContent(Bytes(content))
        with disk_on_volume(volume, "web/web-000001.vmdk") as disk:
            told = [each.text for each in verify_disk(disk) if each.level is Level.BAD]
            assert (not told) == found, (hint, told)


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=300), st.sampled_from(["", '# Disk DescriptorFile\nCID=1\nparentCID=2\nRW 8 VMFS "d-flat.vmdk"\n'])
)
def test_any_text_as_a_descriptor(text: str, lead: str) -> None:
    folder = MemoryFolder({"d.vmdk": (lead + text).encode("utf-8", "replace"), "d-flat.vmdk": bytes(4096)})
    try:
        proposal = propose(folder, "d.vmdk")
        again = vmdk_descriptor.parse(proposal.after.encode()) if proposal else None
        assert again is None or (proposal and again.extents == proposal.after.extents)
        list(open_disk(folder, "d.vmdk").runs())
    except TriuneError:
        pass
