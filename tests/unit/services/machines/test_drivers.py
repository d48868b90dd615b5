"""Whether an initial RAM disk has the driver: by its members, in whatever archives they lie."""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path

import pytest

from triune.services.machines import drivers

FOLDER = "usr/lib/modules/6.1/kernel/drivers/block"
OTHER = (f"{FOLDER}/loop.ko", b"\x7fELF")
# what initramfs-tools puts into each: every module of the kernel is named there
LISTS = ("usr/lib/modules/6.1/modules.order", b"kernel/drivers/block/virtio_blk.ko\n")
INDEX = ("usr/lib/modules/6.1/modules.dep.bin", b"kernel/drivers/x.ko: kernel/drivers/block/virtio_blk.ko\0")


def archive(*members: tuple[str, bytes]) -> bytes:
    """Format: cpio(5), newc."""
    out = b""
    for name, data in (*members, ("TRAILER!!!", b"")):
        fields = [1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % one for one in fields) + name.encode() + b"\0"
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return out + bytes(-len(out) % 512)


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        (gzip.compress(archive(OTHER, LISTS, INDEX)), False),
        (gzip.compress(archive(LISTS, (f"{FOLDER}/virtio_blk.ko", b""))), True),
        (archive(OTHER) + gzip.compress(archive((f"{FOLDER}/virtio_blk.ko.xz", b"xz"), LISTS)), True),
        (archive(OTHER) + gzip.compress(archive(OTHER, LISTS)), False),
        (archive((f"{FOLDER}/virtio_blk.ko.zst", b"")), True),
        (archive(OTHER, LISTS), False),
        (gzip.compress(archive(("big", bytes(drivers._CHUNK - 300)), (f"{FOLDER}/virtio_blk.ko", b""))), True),
        (b"what is this?", None),
    ],
)
def test_members_count_not_lists_of_them(tmp_path: Path, content: bytes, holds: bool | None) -> None:
    path = tmp_path / "initrd.img"
    path.write_bytes(content)
    assert drivers._holds(path) is holds


@pytest.mark.parametrize(("name", "found"), [("INITRD.IMG", True), ("initrd.img-6.1", True), ("INITRD.OLD", False)])
def test_names_of_fat_count_in_any_case(tmp_path: Path, name: str, found: bool) -> None:
    (tmp_path / name).write_bytes(b"")
    system = importlib.import_module("dissect.target.filesystems.dir").DirectoryFilesystem(tmp_path)
    assert [path.name for path in drivers._ramdisks(system)] == ([name] if found else [])
