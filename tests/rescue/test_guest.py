"""Files of a guest come out of its disk as they were put in, whatever the file system and the kind of VMDK."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue.filled import BASE
from tests.rescue.machines import FileContent, add_machine
from tests.rescue.overlay import Overlay
from tests.rescue.writer import Writer
from tests.vmdks import Bytes, Holed, from_raw
from triune.cli.root import main
from triune.disks.stream import ContentSource
from triune.domain.errors import Conflict, NotFound, TriuneError
from triune.services.rescue.guest import Guest
from triune.services.rescue.guest_disks import disk_on_host
from triune.services.rescue.guest_files import extract
from triune.services.rescue.guest_tree import GuestTree

MIB = 1 << 20
HOSTILE = "bad\x1b[31m name"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tree")
    (top / "etc").mkdir()
    (top / "dir/sub").mkdir(parents=True)
    (top / "etc/hostname").write_text("guest\n")
    (top / "dir/big").write_bytes(random.Random(4).randbytes(3_000_000))
    (top / "dir/holes").write_bytes(b"")
    os.truncate(top / "dir/holes", 5 * MIB)
    (top / "dir/link").symlink_to("../etc/hostname")
    (top / "abs").symlink_to("/etc/passwd")
    (top / "loop").symlink_to("loop")
    (top / "dir" / HOSTILE).write_text("x")
    return top


def run(*argv: str | Path, **more: object) -> None:
    subprocess.run([str(each) for each in argv], check=True, capture_output=True, **more)  # type: ignore[call-overload]


def ext4(tree: Path, image: Path) -> None:
    os.truncate(image, 24 * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", tree, image)


def btrfs(tree: Path, image: Path) -> None:
    os.truncate(image, 120 * MIB)
    run("mkfs.btrfs", "-q", "-r", tree, image)


def fat(tree: Path, image: Path) -> None:
    os.truncate(image, 40 * MIB)
    run("mkfs.vfat", "-F", "32", "-n", "BOOT", image)
    run("mcopy", "-s", "-i", image, tree / "etc", "::/")
    run("mmd", "-i", image, "::/dir")
    run("mcopy", "-i", image, tree / "dir/big", "::/dir/big")


def ntfs(tree: Path, image: Path) -> None:
    os.truncate(image, 24 * MIB)
    run("mkntfs", "-q", "-F", "-L", "win", image)
    run("ntfscp", "-q", image, tree / "dir/big", "/big")


def xfs(tree: Path, image: Path) -> None:
    os.truncate(image, 320 * MIB)
    text = f"/\n0 0\nd--755 0 0\ndir d--755 0 0\nbig ---644 0 0 {tree}/dir/big\n$\n$\n"
    image.with_suffix(".proto").write_text(text)
    run("mkfs.xfs", "-q", "-p", image.with_suffix(".proto"), image)


MAKERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "ext4": ("mke2fs", ext4),
    "btrfs": ("mkfs.btrfs", btrfs),
    "fat32": ("mcopy", fat),
    "ntfs": ("ntfscp", ntfs),
    "xfs": ("mkfs.xfs", xfs),
}


def made(kind: str, tree: Path, tmp_path: Path) -> Path:
    tool, maker = MAKERS[kind]
    if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip(f"needs {tool}")
    image = tmp_path / f"{kind}.raw"
    image.touch()
    maker(tree, image)
    return image


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", [*MAKERS])
def test_every_file_system_through_a_vmdk(kind: str, tree: Path, tmp_path: Path) -> None:
    image = made(kind, tree, tmp_path)
    disk = tmp_path / "disk.vmdk"
    from_raw(image, disk, "streamOptimized" if kind == "ext4" else "monolithicSparse")
    image.unlink()
    with disk_on_host(disk) as opened:
        guest = Guest(opened.source)
        (part,) = guest.parts
        assert part.holds == kind and part.name == "disk"
        big = "disk/big" if kind == "ntfs" else "disk/dir/big"
        (done,) = extract(guest, big, tmp_path / "out")
        assert done.sha256 == digest(tree / "dir/big") == digest(tmp_path / "out/big") and not done.missing
        with pytest.raises(NotFound):
            guest.stat("disk/none")


def test_folders_links_and_hostile_names(tree: Path, tmp_path: Path) -> None:
    with disk_on_host(made("ext4", tree, tmp_path)) as opened:
        guest = Guest(opened.source)
        names = [each.path for each in guest.list("disk/dir")]
        assert names == sorted(f"disk/dir/{name}" for name in ("big", "holes", "link", "sub", HOSTILE))
        assert guest.stat("dir/link").target == "../etc/hostname"  # the only part's name may be left out
        done = {each.path: each for each in extract(guest, "disk", tmp_path / "out")}
        out = tmp_path / "out/disk"
        assert (out / "dir/link").readlink() == Path("../etc/hostname") and (out / "abs").is_symlink()
        assert (out / "dir/holes").stat().st_blocks == 0 and (out / "dir/holes").stat().st_size == 5 * MIB
        assert done["disk/etc/hostname"].sha256 == digest(tree / "etc/hostname")
        assert not any("\x1b" in name for name in [each.name for each in (out / "dir").iterdir()])
        assert guest.open("disk/dir/link").read(0, 100) == b"guest\n"
        for path in ("disk/abs", "disk/loop", "nowhere/x"):
            with pytest.raises(TriuneError):
                guest.open(path)
        with pytest.raises(Conflict):
            guest.list("disk/etc/hostname")


def test_missing_bytes_are_told_not_filled(tree: Path, tmp_path: Path) -> None:
    image = made("ext4", tree, tmp_path)
    data = image.read_bytes()
    big = (tree / "dir/big").read_bytes()
    place = data.index(big[1_000_000:1_000_512])
    guest = Guest(ContentSource(Holed(data, [(place, 512)]), "torn"))
    (done,) = extract(guest, "disk/dir/big", tmp_path / "out")
    assert done.missing and sum(length for _, length in done.missing) <= 8192
    got = (tmp_path / "out/big").read_bytes()
    for offset, length in done.missing:
        big = big[:offset] + bytes(length) + big[offset + length :]
    assert got == big and done.why
    with pytest.raises(TriuneError):
        guest.open("disk/dir/big").read(1_000_000, 512)


def test_partitions_and_what_they_hold(tree: Path, tmp_path: Path) -> None:
    if shutil.which("sfdisk") is None:
        pytest.skip("needs sfdisk")
    image = tmp_path / "whole.raw"
    script = "label: gpt\nsize=40MiB, type=U, name=esp\nsize=24MiB, type=L, name=root\nsize=2MiB, type=S\n"
    image.touch()
    os.truncate(image, 70 * MIB)
    run("sfdisk", "-q", image, input=script.encode())
    with image.open("r+b") as file:
        for start, kind in ((1, "fat32"), (41, "ext4")):
            file.seek(start * MIB)
            file.write(made(kind, tree, tmp_path).read_bytes())
        file.seek(65 * MIB + 4086)
        file.write(b"SWAPSPACE2")
    with disk_on_host(image) as opened:
        guest = Guest(opened.source)
        assert [(part.name, part.holds, part.label) for part in guest.parts] == [
            ("p1", "fat32", "esp"),
            ("p2", "ext4", "root"),
            ("p3", "swap", ""),
        ]
        assert {each.path for each in guest.list("p1")} == {"p1/DIR", "p1/ETC"} and not guest.problems
        with pytest.raises(Conflict):
            guest.list("p3")
        with pytest.raises(NotFound):
            guest.stat("etc/hostname")  # in which of the two?


def lvm(filesystem: bytes) -> bytes:
    """A physical volume with one logical volume "root" of the group "vg-0", by the format's text metadata."""
    extent = 4 * MIB
    count = -(-len(filesystem) // extent)
    uuid = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
    text = f"""vg-0 {{
id = "{uuid}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {extent // 512}
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {{
pv0 {{
id = "{uuid}"
device = "/dev/sda"
status = ["ALLOCATABLE"]
flags = []
dev_size = {(count + 1) * extent // 512}
pe_start = 2048
pe_count = {count}
}}
}}
logical_volumes {{
root {{
id = "{uuid}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {count}
type = "striped"
stripe_count = 1
stripes = [
"pv0", 0
]
}}
}}
}}
}}
contents = "Text Format Volume Group"
version = 1
description = ""
creation_host = "test"
creation_time = 1700000000
"""
    raw = text.encode() + b"\0"
    disk = bytearray(MIB + count * extent)
    body = uuid.replace("-", "").encode() + struct.pack("<Q", len(disk))
    body += struct.pack("<QQQQ", MIB, 0, 0, 0) + struct.pack("<QQQQ", 4096, MIB - 4096, 0, 0)
    label = struct.pack("<I8s", 32, b"LVM2 001") + body
    label = label.ljust(512 - 20, b"\0")
    disk[512:1024] = b"LABELONE" + struct.pack("<QI", 1, zlib.crc32(label)) + label
    disk[4096 : 4096 + 512] = struct.pack(
        "<I16sIQQQQII", 0, b" LVM2 x[5A%r0N*>", 1, 4096, MIB - 4096, 512, len(raw), zlib.crc32(raw), 0
    ).ljust(512, b"\0")
    disk[4096 + 512 : 4096 + 512 + len(raw)] = raw
    disk[MIB : MIB + len(filesystem)] = filesystem
    return bytes(disk)


def test_logical_volumes(tree: Path, tmp_path: Path) -> None:
    guest = Guest(Bytes(lvm(made("ext4", tree, tmp_path).read_bytes())))
    assert [(part.name, part.holds) for part in guest.parts] == [("disk", "LVM2"), ("vg--0-root", "ext4")]
    (done,) = extract(guest, "vg--0-root/dir/big", tmp_path / "out")
    assert done.sha256 == digest(tree / "dir/big")


@pytest.mark.parametrize("kind", ["ext4", "fat32", "ntfs"])
def test_damaged_file_systems_end_in_errors_of_ours(kind: str, tree: Path, tmp_path: Path) -> None:
    data = made(kind, tree, tmp_path).read_bytes()[: 24 * MIB]
    chance = random.Random(kind)
    for _ in range(12):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 40])):
            place = chance.randrange(chance.choice([2048, 200_000, len(data)]))
            broken[place : place + 16] = chance.randbytes(16)
        guest = Guest(Bytes(bytes(broken[: len(data)])))
        try:
            for found, _ in zip(guest.walk(""), range(200), strict=False):
                if found.kind == "file":
                    reader = guest.open(found.path)
                    reader.read(0, min(reader.size, 65536))
        except TriuneError:
            pass


def test_the_tree_that_a_mount_shows(tree: Path, tmp_path: Path) -> None:
    data = made("ext4", tree, tmp_path).read_bytes()
    place = data.index((tree / "dir/big").read_bytes()[1_000_000:1_000_512])
    shown = GuestTree(Guest(ContentSource(Holed(data, [(place, 512)]), "torn")))
    part = shown.find(1, "disk")
    assert part and part.folder and shown.find(1, "other") is None
    top = dict(shown.names(part.number))
    assert {"abs", "dir", "etc", "loop", "lost+found"} == set(top) and top["abs"].link
    assert shown.target(top["abs"].number) == "/etc/passwd"
    inside = dict(shown.names(top["dir"].number))
    assert shown.names(top["dir"].number) == list(inside.items())
    assert all("\x1b" not in name for name in inside) and len(inside) == 5
    big = inside["big"]
    assert big.size == 3_000_000 and shown.read(big.number, 5, 100) == (tree / "dir/big").read_bytes()[5:105]
    with pytest.raises(OSError) as caught:
        shown.read(big.number, 1_000_000, 512)
    assert caught.value.errno == errno.EIO
    with pytest.raises(NotADirectoryError):
        shown.names(big.number)
    assert shown.node(10**6) is None


@pytest.mark.live
def test_a_real_mount_of_a_disk(tree: Path, tmp_path: Path) -> None:
    if shutil.which("fusermount3") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("hardware: no FUSE here")
    disk, folder = tmp_path / "disk.vmdk", tmp_path / "mounted"
    from_raw(made("ext4", tree, tmp_path), disk, "monolithicSparse")
    folder.mkdir()
    assert main(["rescue", "mount", "--disk", str(disk), str(folder)]) == 0
    try:
        assert digest(folder / "disk/dir/big") == digest(tree / "dir/big")
        assert (folder / "disk/dir/link").read_text() == "guest\n"
        with pytest.raises(OSError):
            (folder / "disk/new").write_text("x")
    finally:
        assert main(["rescue", "umount", str(folder)]) == 0


@pytest.mark.heavy
@pytest.mark.parametrize("damaged", [False, True])
def test_files_out_of_a_guest_on_a_datastore(
    tree: Path, tmp_path: Path, image: Callable[[str], Path], damaged: bool
) -> None:
    """ext4 in a VMDK on VMFS6, the volume's descriptor of itself and of LVM gone in the second run."""
    disk = made("ext4", tree, tmp_path)
    overlay = Overlay(image("vmfs6"))
    add_machine(Writer(overlay, BASE), "web", FileContent(disk), scattered=True)
    if damaged:
        overlay.zero(0x100000, 0x2000)
        overlay.zero(BASE + 0x200000, 0x1000)
    store = overlay.save(tmp_path / "store.img")
    argv = ["rescue", "inside", str(store), "web/web.vmdk", "extract", "dir/big", "--to", str(tmp_path / "out")]
    assert main(argv) == 0
    assert digest(tmp_path / "out/big") == digest(tree / "dir/big")
    assert main(["rescue", "verify", str(store), "web/web.vmdk"]) == 0
    assert main(["rescue", "preview", str(store), "web/web.vmx"]) == 0
