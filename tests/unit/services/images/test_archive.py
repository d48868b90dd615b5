"""Root tarballs: what is kept, and what is refused without a trace outside."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triune.domain.errors import Cancelled, Invalid, TriuneError
from triune.domain.operation import Silent
from triune.services.images.archive import find_init, unpack
from triune.services.images.imports import decide
from triune.services.images.options import ImportOptions

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644, data: bytes = b"",
          uid: int | None = None, pax: dict[str, str] | None = None) -> tuple[tarfile.TarInfo, bytes]:  # fmt: skip
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE and mode == 0o644 else mode
    info.uid = info.gid = os.geteuid() if uid is None else uid
    info.pax_headers = pax or {}
    return info, data


def archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return path


def unpacked(path: Path, limit: int = 1 << 30) -> Path:
    target = path.parent / "tree"
    target.mkdir()
    unpack(path, target, limit, Silent())
    return target


DIR, LNK, SYM, CHR, FIFO = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE


@ROOT
def test_owners_modes_links_and_holes_are_kept(tmp_path: Path) -> None:
    tree = unpacked(
        archive(
            tmp_path / "a.tar",
            entry("./", DIR, mode=0o755),
            entry("./usr", DIR, mode=0o755),
            entry("usr/bin/su", mode=0o4755, data=b"su", uid=0),
            entry("usr/bin/su2", LNK, link="./usr/bin/su"),
            entry("bin", SYM, link="usr/bin"),
            entry("home/me", DIR, mode=0o700, uid=1000),
            entry("hole", data=bytes(8 << 20)),
            entry("dev/null", CHR, mode=0o666),
            entry("run/pipe", FIFO, mode=0o600),
        )
    )
    su = (tree / "usr/bin/su").stat()
    assert stat.S_IMODE(su.st_mode) == 0o4755
    assert su.st_nlink == 2
    assert (tree / "home/me").stat().st_uid == 1000
    assert (tree / "bin").readlink() == Path("usr/bin")
    assert (tree / "hole").stat().st_size == 8 << 20
    assert (tree / "hole").stat().st_blocks < 100
    assert not (tree / "dev/null").exists()
    assert stat.S_ISFIFO((tree / "run/pipe").stat().st_mode)


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../escape", data=b"x")],
        [entry("a/../../escape", data=b"x")],
        [entry("/etc/cron.d/x", data=b"x")],
        [entry("link", SYM, link="/OUT"), entry("link/escape", data=b"x")],
        [entry("link", SYM, link=".."), entry("link/escape", data=b"x")],
        [entry("d", DIR), entry("d/up", SYM, link="../.."), entry("d/up/escape", DIR)],
        [entry("link", SYM, link="/OUT"), entry("link/escape", SYM, link="x")],
        [entry("hard", LNK, link="../secret")],
        [entry("hard", LNK, link="/OUT/secret")],
        [entry("s", SYM, link="/OUT"), entry("hard", LNK, link="s/secret")],
        [entry("d", DIR), entry("d", data=b"x")],
        [entry("/".join(["d"] * 200), data=b"x")],
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    outside = tmp_path / "out"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for info, _ in entries:
        info.linkname = info.linkname.replace("/OUT", str(outside))
    with pytest.raises(Invalid) as caught:
        unpacked(archive(tmp_path / "a.tar", *entries))
    assert caught.value.code == "unsafe_archive"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert not (tmp_path / "escape").exists()


def test_a_link_to_outside_stays_a_link_and_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    tree = unpacked(
        archive(tmp_path / "a.tar", entry("x", SYM, link=str(tmp_path / "secret")), entry("x", data=b"mine"))
    )
    assert (tree / "x").read_bytes() == b"mine"
    assert (tmp_path / "secret").read_text() == "secret"


def test_sizes_are_capped_by_what_is_claimed(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        unpacked(archive(tmp_path / "a.tar", entry("big", data=bytes(100_000))), limit=50_000)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, lzma.compress], ids=["plain", "gz", "xz"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_truncated_archive_is_an_error(tmp_path: Path, pack: Callable[[bytes], bytes], kept: float) -> None:
    whole = archive(tmp_path / "w.tar", *(entry(f"f{n}", data=os.urandom(3000)) for n in range(40)))
    data = pack(whole.read_bytes())
    (tmp_path / "a.tar").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(Invalid) as caught:
        unpacked(tmp_path / "a.tar")
    assert caught.value.code == "corrupt_archive"


def test_cut_off_between_two_entries_is_noticed_too(tmp_path: Path) -> None:
    whole = archive(tmp_path / "w.tar", entry("a", data=b"A" * 512), entry("b", data=b"B" * 512))
    (tmp_path / "a.tar").write_bytes(whole.read_bytes()[:1024])
    with pytest.raises(Invalid) as caught:
        unpacked(tmp_path / "a.tar")
    assert caught.value.code == "corrupt_archive"


def test_init_is_found_inside_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sbin").mkdir(parents=True)
    (tree / "sbin/init").symlink_to("/etc/passwd")
    assert find_init(tree) is None
    (tree / "etc").mkdir()
    (tree / "etc/passwd").touch()
    assert find_init(tree) == "/sbin/init"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_nonsense_gives_domain_errors_only(tmp_path: Path, data: bytes, where: int) -> None:
    base = archive(tmp_path / "b.tar", entry("d", DIR), entry("d/f", data=b"x" * 700)).read_bytes()
    (tmp_path / "a.tar").write_bytes(base[:where] + data + base[where + len(data) :])
    target = tmp_path / os.urandom(8).hex()
    target.mkdir()
    try:
        unpack(tmp_path / "a.tar", target, 1 << 20, Silent())
    except TriuneError as error:
        assert error.hint


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    """A bare header block, whatever may follow."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.uid, info.gid = kind, size, os.geteuid(), os.getegid()
    return info.tobuf(tarfile.GNU_FORMAT)


SPARSE_MAP = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "1"}


def sparse_map(size: int) -> bytes:
    """A sparse file of one byte, and of this many bytes of map."""
    info = tarfile.TarInfo("x")
    info.size, info.pax_headers = size, SPARSE_MAP
    return info.tobuf(tarfile.PAX_FORMAT) + (b"9999999\n" + b"0\n" * (size // 2))[:size]


@pytest.mark.parametrize(
    "content",
    [
        header(tarfile.XHDTYPE, 64 << 20) + bytes(64 << 20),
        header(tarfile.XGLTYPE, 64 << 20) + bytes(64 << 20),
        header(tarfile.GNUTYPE_LONGNAME, 64 << 20) + b"a" * (64 << 20),
        sparse_map(32 << 20),
        header(tarfile.GNUTYPE_LONGNAME, 1) + b"a".ljust(512, b"\0"),
    ],
    ids=["attributes", "global attributes", "name", "sparse map", "nested names"],
)
def test_headers_that_would_fill_the_memory_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(content if len(content) > 4096 else content * 3000, 1))
    with pytest.raises(Invalid) as caught:
        unpacked(path)
    assert caught.value.code == ("unsafe_archive" if len(content) > 4096 else "corrupt_archive")


@pytest.mark.parametrize("pax", [{"mtime": "nan"}, {"mtime": "inf"}, {"linkpath": "a\0b"}, {"path": "a\0b"}])
def test_senseless_attributes_are_refused(tmp_path: Path, pax: dict[str, str]) -> None:
    kind = SYM if "linkpath" in pax else tarfile.REGTYPE
    with pytest.raises(Invalid):
        unpacked(archive(tmp_path / "a.tar", entry("x", kind, link="y", pax=pax)))


def test_long_names_and_sparse_files_of_honest_archives_pass(tmp_path: Path) -> None:
    long = "/".join(["d" * 200] * 12)
    tree = unpacked(archive(tmp_path / "a.tar", entry(long, data=b"here"), entry("b", data=b"there")))
    assert (tree / long).read_bytes() == b"here"
    assert (tree / "b").read_bytes() == b"there"


def test_a_single_huge_entry_can_be_cancelled(tmp_path: Path) -> None:
    class Impatient(Silent):
        def check(self) -> None:
            raise Cancelled("cancelled", "enough", hint="")

    path = archive(tmp_path / "a.tar", entry("x", data=bytes(2 << 20)))
    (tmp_path / "tree").mkdir()
    with pytest.raises(Cancelled):
        unpack(path, tmp_path / "tree", 1 << 30, Impatient())


def test_an_archive_of_docker_with_many_layers_is_known_before_its_manifest(tmp_path: Path) -> None:
    layers = [f"{number:064x}" for number in range(30)]
    parts = [(f"{layer}/", DIR) for layer in layers]
    files = [f"{layer}/{name}" for layer in layers for name in ("VERSION", "json", "layer.tar")]
    saved = archive(
        tmp_path / "saved.tar",
        *(entry(name, kind) for name, kind in parts),
        *(entry(name, data=b"x") for name in files),
        entry("manifest.json", data=b"[]"),
    )
    assert decide(saved, ImportOptions()) == "oci"
    assert (
        decide(archive(tmp_path / "tree.tar", entry("bin/", DIR), entry("etc/os-release")), ImportOptions()) == "tree"
    )
