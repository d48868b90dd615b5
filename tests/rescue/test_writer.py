"""What the fixtures' writer makes is what the independent readers see, and so is what it deletes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.rescue import oracle
from tests.rescue.layout import ROOT, u16, u32
from tests.rescue.machines import add_machine
from tests.rescue.namehash import name_hash
from tests.rescue.overlay import Overlay
from tests.rescue.writer import Content, Writer, walked

MIB = 1 << 20
VERSIONS = ["vmfs5", "vmfs6"]
LISTED = Content(5 * MIB, {0: b"a" * 700, 3 * MIB + 5: b"b" * 9000}, frozenset({2}))
POINTED = Content(300 * MIB, {n * MIB: bytes([n % 251]) * 4096 for n in range(0, 300, 3)})
HUGE = Content(1 << 40, {n * MIB: bytes([1 + n % 251]) * 4096 for n in (0, 5, 300_000, 1_048_575)})
NEW = {
    "added/resident": (Content.of(b"hello"), ""),
    "added/sub": (Content.of(b"s" * 5000), "sub"),
    "added/list": (LISTED, ""),
    "added/pointer": (POINTED, "pointer"),
    "added/huge": (HUGE, ""),
}


def added(disk: Overlay) -> Writer:
    """The volume with a folder of every kind of file."""
    writer = Writer(disk)
    writer.make_folder("added")
    for path, (content, how) in NEW.items():
        writer.make_file(path, content, how, scattered=True)
    return writer


def expected(content: Content) -> str:
    pieces = sorted(content.pieces.items())
    return oracle.digest_of(pieces, content.size)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_independent_reader_sees_every_kind_of_file(image: Callable[[str], Path], version: str) -> None:
    writer = added(Overlay(image(version)))
    volume = oracle.dissect(writer.disk)
    for path, (content, _) in NEW.items():
        fd = volume.get(path)
        assert (fd.size, oracle.digest_of(oracle._stored(fd), fd.size)) == (content.size, expected(content)), path


def test_names_hash_as_esxi_hashed_them(image: Callable[[str], Path]) -> None:
    writer = Writer(Overlay(image("vmfs6")))
    folder = writer.fd(writer.entry(ROOT, "directory"))
    entries = writer._entries_of(folder)
    assert len(entries) == 100
    for place, name, _, _ in entries:
        assert u32(writer._bytes(folder, place, 288), 12) == name_hash(name) & 0xFFFFFFFF


@pytest.mark.heavy
@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_else_changes_and_deletion_takes_one_file_away(image: Callable[[str], Path], version: str) -> None:
    before = oracle.facts(oracle.dissect(Overlay(image(version))))
    writer = added(Overlay(image(version)))
    machine = add_machine(writer, "web", POINTED, scattered=True)
    after = oracle.facts(oracle.dissect(writer.disk))
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {"added", "web", *NEW, *machine} == set(walked(writer)) - set(before)
    writer.delete("web/web-flat.vmdk")
    writer.delete("added/sub")
    gone = oracle.facts(oracle.dissect(writer.disk))
    assert gone == {path: fact for path, fact in after.items() if path not in {"web/web-flat.vmdk", "added/sub"}}


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("debugvmfs") is None, reason="needs debugvmfs (Debian's vmfs-tools)")
def test_debugvmfs_reads_the_same_and_its_check_finds_nothing_new(image: Callable[[str], Path], tmp_path: Path) -> None:
    writer = Writer(Overlay(image("vmfs5")))
    writer.make_folder("added")
    # Its check takes resident bytes and blocks to be zeroed for addresses, and it follows no double indirection.
    files = {
        "added/list": Content(LISTED.size, LISTED.pieces),
        "added/pointer": POINTED,
        "added/sub": NEW["added/sub"][0],
    }
    for path, content in files.items():
        writer.make_file(path, content, NEW[path][1], scattered=True)
    made = writer.disk.save(tmp_path / "made.img")
    for path, content in files.items():
        told = oracle.debugvmfs(made, "cat", f"/{path}")
        assert sha256(told).digest() == sha256(content.part(0, content.size)).digest(), path
    assert _complaints(made) == _complaints(image("vmfs5"))


def _complaints(image: Path) -> list[str]:
    done = subprocess.run(["fsck.vmfs", str(image)], capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.stdout.splitlines()[-5:]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_counts_as_free_is_what_the_clusters_count(image: Callable[[str], Path], version: str) -> None:
    writer = added(Overlay(image(version)))
    for area in (writer.area_of(kind) for kind in (1, 2, 4)):
        for cluster in range(area.clusters):
            _, raw, _ = writer._map(area, cluster)
            counted = u16(raw, 0x22) if writer.six else u32(raw, 8)
            assert len(writer._free(area, cluster)) == counted, (area.address, cluster)
