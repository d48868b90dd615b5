"""The collection: names, forms, use, removal, crashes in between, and files that lie."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from tests.patience import PATIENCE
from tests.unit.services.images.stubs import MemoryStore, stub_engines

from triune.domain.errors import Conflict, Denied, Failed, Invalid, NotFound, TriuneError, Unsupported
from triune.domain.image import DiskForm, FormKind, OciForm, TreeForm
from triune.domain.operation import Silent
from triune.services.images import BuildOptions, Images, ImportOptions
from triune.services.images import service as module
from triune.services.images.build import wanted_options
from triune.services.images.manifest import Manifest, TreeFiles, parse
from triune.services.images.options import GIB
from triune.services.images.store import ImageStore

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")


class Case:
    """A collection of images with its surroundings."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.root = tmp_path / "images"
        self.oci = MemoryStore()
        self.used: dict[str, list[str]] = {}
        self.engines = stub_engines(self.oci)
        self.images = Images(self.root, self.engines, self.users)

    def users(self) -> Mapping[str, Sequence[str]]:
        return self.used

    def bring(self, file: str | Path, name: str = "box/1", **options: object) -> object:
        return self.images.import_file(Path(file), name, ImportOptions(**options), Silent())  # type: ignore[arg-type]

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.root / "tmp").iterdir()]

    def digests(self) -> list[str]:
        return [path.name for path in self.root.iterdir() if len(path.name) == 64]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def root_tarball(path: Path, text: bytes = b"init", *, init: bool = True) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in ("bin/sh", *(["sbin/init"] if init else [])):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o755
            info.uid = info.gid = os.geteuid()
            tar.addfile(info, io.BytesIO(text))
    return path


def oci_archive(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in ("blobs/sha256/aa", "index.json", "oci-layout"):
            tar.addfile(tarfile.TarInfo(name))
    return path


def qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def code(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert isinstance(error.value, TriuneError)
    assert error.value.hint
    return error.value.code


def test_a_root_tarball_gives_a_tree_and_an_oci_image(case: Case) -> None:
    source = root_tarball(case.folder / "root.tar.gz")
    case.bring(source)
    image = case.images.get("box/1")
    assert image.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert case.images.kinds("box/1") == {FormKind.TREE, FormKind.OCI}
    form, name = case.images.form("box/1", FormKind.TREE, Silent())
    assert isinstance(form, TreeForm)
    assert name == "box/1"
    assert (form.path / "bin/sh").read_bytes() == b"init"
    assert form.path.stat().st_mode & 0o777 == 0o755
    assert form.path.parent.stat().st_mode & 0o777 == 0o700
    oci, _ = case.images.form("box/1", FormKind.OCI, Silent())
    assert isinstance(oci, OciForm)
    assert oci.reference == "triune/box:1"
    case.images.form("box/1", FormKind.OCI, Silent())
    assert case.oci.loads == 1
    # Docker lost it (or was reset): it is made again.
    case.oci.clear()
    assert FormKind.OCI not in case.images.get("box/1").forms
    case.images.form("box/1", FormKind.OCI, Silent())
    assert case.oci.loads == 2
    with pytest.raises(Unsupported) as caught:
        case.images.form("box/1", FormKind.DISK, Silent())
    assert code(caught) == "no_form"
    assert "trees" in caught.value.hint
    assert case.leftovers() == []


def test_a_tree_without_init_is_no_system(case: Case) -> None:
    case.bring(root_tarball(case.folder / "root.tar.gz", init=False))
    assert case.images.kinds("box/1") == {FormKind.OCI}
    with pytest.raises(Invalid) as caught:
        with tarfile.open(case.folder / "odd.tar", "w") as tar:
            tar.add(__file__, arcname="readme.txt")
        case.bring(case.folder / "odd.tar", "box/2")
    assert code(caught) == "no_root_tree"
    assert case.leftovers() == []
    assert len(case.digests()) == 1


def test_without_an_oci_store_the_other_forms_remain(case: Case) -> None:
    case.bring(root_tarball(case.folder / "root.tar.gz"))
    alone = Images(case.root, stub_engines(None), case.users)
    assert alone.kinds("box/1") == {FormKind.TREE}
    assert FormKind.TREE in alone.get("box/1").forms
    with pytest.raises(Unsupported) as caught:
        alone.form("docker:nginx", FormKind.OCI, Silent())
    assert code(caught) == "no_oci_store"


def test_names_and_near_names(case: Case) -> None:
    for name, hint in (
        ("debian/12", "triune image build debian/12"),
        ("debain/12", "debian/12"),
        ("zzz/1", "triune image list"),
    ):
        with pytest.raises(NotFound) as caught:
            case.images.get(name)
        assert code(caught) == "image_not_found"
        assert hint in caught.value.hint
    for name in (
        "debian",
        "../../etc",
        "a/b/c",
        "Debian/12",
        "a/b\n",
        "docker:",
        "docker:-x",
        "docker:a b",
        "docker:A",
    ):
        with pytest.raises(Invalid):
            case.images.get(name)


def test_pulled_references(case: Case) -> None:
    case.oci.registry = {"nginx:latest", "127.0.0.1:5000/a/b:1"}
    form, name = case.images.form("docker:nginx", FormKind.OCI, Silent())
    assert isinstance(form, OciForm)
    assert (form.reference, name) == ("nginx:latest", "docker:nginx:latest")
    assert case.images.pull("docker:127.0.0.1:5000/a/b:1", None, Silent()).name == "docker:127.0.0.1:5000/a/b:1"
    # One that is in the store already is used without a registry.
    case.oci.hold("local:2", 5)
    case.images.form("docker:local:2", FormKind.OCI, Silent())
    assert case.oci.loads == 3
    assert [image.name for image in case.images.list()] == [
        "docker:127.0.0.1:5000/a/b:1", "docker:local:2", "docker:nginx:latest",
    ]  # fmt: skip
    with pytest.raises(Unsupported):
        case.images.require("docker:nginx", FormKind.TREE)
    case.used = {"docker:nginx:latest": ["web"]}
    with pytest.raises(Conflict) as caught:
        case.images.remove("docker:nginx")
    assert code(caught) == "image_in_use"
    case.used = {}
    case.images.remove("docker:nginx")
    assert "nginx:latest" not in case.oci.tags
    with pytest.raises(NotFound):
        case.images.remove("docker:nginx")
    with pytest.raises(Invalid):
        case.images.pull("debian/12", None, Silent())
    case.oci.down = True
    assert case.images.list() == []


def test_removal_is_refused_while_used_and_leaves_nothing(case: Case) -> None:
    case.bring(root_tarball(case.folder / "root.tar.gz"))
    case.images.form("box/1", FormKind.OCI, Silent())
    case.used = {"box/1": ["a", "b"]}
    assert case.images.get("box/1").used_by == ("a", "b")
    with pytest.raises(Conflict) as caught:
        case.images.remove("box/1")
    assert code(caught) == "image_in_use"
    case.used = {}
    case.images.remove("box/1")
    assert case.digests() == []
    assert case.leftovers() == []
    assert case.oci.images == {}
    assert case.images.list() == []


def test_an_engine_that_is_down_may_use_it(case: Case) -> None:
    case.bring(root_tarball(case.folder / "1.tar.gz", b"old"))
    cast(Any, case.engines["trees"]).down = True
    with pytest.raises(Conflict) as caught:
        case.images.remove("box/1")
    assert code(caught) == "image_use_unknown"
    case.bring(root_tarball(case.folder / "2.tar.gz", b"new"), replace=True)
    assert len(case.digests()) == 2
    # One that could not run it anyway does not matter.
    cast(Any, case.engines["trees"]).down = False
    cast(Any, case.engines["disks"]).down = True
    case.images.remove("box/1")
    assert case.digests() == []


def test_a_replaced_image_keeps_its_files_while_instances_use_it(case: Case) -> None:
    case.bring(root_tarball(case.folder / "1.tar.gz", b"old"))
    old, _ = case.images.form("box/1", FormKind.TREE, Silent())
    with pytest.raises(Conflict) as caught:
        case.bring(root_tarball(case.folder / "2.tar.gz", b"new"))
    assert code(caught) == "image_exists"
    case.used = {"box/1": ["a"]}
    case.bring(case.folder / "2.tar.gz", replace=True)
    assert isinstance(old, TreeForm)
    assert (old.path / "bin/sh").read_bytes() == b"old"
    new, _ = case.images.form("box/1", FormKind.TREE, Silent())
    assert isinstance(new, TreeForm)
    assert (new.path / "bin/sh").read_bytes() == b"new"
    case.used = {}
    case.images.remove("box/1")
    assert case.digests() == []


def test_one_file_under_two_names_is_kept_until_both_are_gone(case: Case) -> None:
    source = root_tarball(case.folder / "root.tar.gz")
    case.bring(source, "box/1")
    case.bring(source, "box/2")
    assert len(case.digests()) == 1
    case.images.remove("box/1")
    assert case.images.kinds("box/2")
    case.images.remove("box/2")
    assert case.digests() == []


def test_an_instance_may_know_a_file_by_a_name_that_is_another_images_now(case: Case) -> None:
    source = root_tarball(case.folder / "root.tar.gz")
    case.bring(source, "box/1")
    case.bring(source, "box/2")
    case.used = {"box/2": ["a"]}
    case.bring(root_tarball(case.folder / "2.tar.gz", b"new"), "box/2", replace=True)
    case.images.remove("box/1")
    assert len(case.digests()) == 2
    case.images.sweep()
    assert len(case.digests()) == 2
    case.used = {}
    case.images.sweep()
    assert len(case.digests()) == 1


def test_a_replaced_oci_form_goes_when_nothing_uses_it(case: Case) -> None:
    for content in (b"one", b"two"):
        case.bring(root_tarball(case.folder / f"{content!r}.tar.gz", content), replace=True)
        case.images.form("box/1", FormKind.OCI, Silent())
    assert list(case.oci.images) == ["sha256:2"]
    assert case.oci.tags == {"triune/box:1": "sha256:2"}
    # A container that is not ours holds it: it goes when the image does, or at a later start.
    case.oci.in_use = {"sha256:2"}
    case.bring(root_tarball(case.folder / "3.tar.gz", b"three"), replace=True)
    case.images.form("box/1", FormKind.OCI, Silent())
    assert case.oci.tags == {"triune/box:1": "sha256:3"}
    assert len(case.digests()) == 2
    case.oci.in_use = set()
    case.images.sweep()
    assert len(case.digests()) == 1
    assert list(case.oci.images) == ["sha256:3"]
    # Somebody else's image that took the tag is not ours to remove.
    case.oci.hold("triune/box:1", 7)
    case.images.remove("box/1")
    assert list(case.oci.images) == ["sha256:4"]


def test_what_a_crash_left_without_a_name_is_swept(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(store: ImageStore, name: str, digest: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageStore, "set_name", die)
    with pytest.raises(KeyboardInterrupt):
        case.bring(root_tarball(case.folder / "root.tar.gz"))
    assert len(case.digests()) == 1
    case.images.sweep()
    assert case.digests() == []
    assert case.leftovers() == []


def test_an_archive_the_store_refuses_is_no_image(case: Case) -> None:
    case.oci.broken = True
    with pytest.raises(Invalid):
        case.bring(oci_archive(case.folder / "box.tar"))
    assert case.images.list() == []
    assert case.digests() == []
    assert case.leftovers() == []


def test_only_leftovers_nobody_works_in_are_swept(case: Case) -> None:
    (case.root / "tmp/build-dead/private").mkdir(parents=True)
    (case.root / "tmp/build-dead/private/link").symlink_to("/etc")
    (case.root / "tmp/removed-1").mkdir()
    (case.root / "tmp/stray").write_text("x")
    (case.root / "names/debian").mkdir()
    (case.root / "names/debian/.12.new").write_text("half")
    busy = case.root / "tmp/build-busy"
    busy.mkdir()
    fd = os.open(busy, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    removed = case.images.sweep()
    assert sorted(removed) == ["names/debian/.12.new", "tmp/build-dead", "tmp/removed-1", "tmp/stray"]
    assert case.leftovers() == ["build-busy"]
    os.close(fd)
    assert list(case.images.sweep()) == ["tmp/build-busy"]
    assert Path("/etc/passwd").exists()


def test_a_name_without_its_files_is_no_image(case: Case) -> None:
    (case.root / "names/box").mkdir()
    (case.root / "names/box/1").write_text("0" * 64 + "\n")
    assert case.images.list() == []
    with pytest.raises(NotFound):
        case.images.get("box/1")


@needs_qemu_img
@pytest.mark.parametrize("form", ["qcow2", "vmdk"])
def test_a_disk_is_recognised_and_stored_as_qcow2(case: Case, form: str) -> None:
    disk = case.folder / "disk"
    qemu_img("create", "-q", "-f", form, disk, "64M")
    subprocess.run(["qemu-io", "-f", form, "-c", "write -P 7 1M 1M", disk], check=True, stdout=subprocess.DEVNULL)
    case.bring(disk, firmware="uefi", agent=True)
    kept, _ = case.images.form("box/1", FormKind.DISK, Silent())
    assert isinstance(kept, DiskForm)
    assert kept.path is not None
    assert (kept.format, kept.virtual_size, kept.firmware, kept.agent) == ("qcow2", 64 << 20, "uefi", True)
    qemu_img("compare", "-f", form, "-F", "qcow2", disk, kept.path)
    assert case.leftovers() == []


@needs_qemu_img
def test_raw_is_declared_never_guessed(case: Case) -> None:
    disk = case.folder / "disk.img"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
    with pytest.raises(Invalid) as caught:
        case.bring(disk)
    assert code(caught) == "format_undeclared"
    assert "--format raw" in caught.value.hint
    case.bring(disk, format="raw")
    kept, _ = case.images.form("box/1", FormKind.DISK, Silent())
    assert isinstance(kept, DiskForm)
    assert kept.virtual_size == (1 << 20) + 512


@needs_qemu_img
@pytest.mark.parametrize(("real", "said"), [("qcow2", "raw"), ("qcow2", "vmdk"), ("vmdk", "qcow2"), ("vmdk", "raw")])
def test_a_lie_about_the_format_is_refused(case: Case, real: str, said: str) -> None:
    qemu_img("create", "-q", "-f", real, case.folder / "disk", "8M")
    with pytest.raises(Invalid) as caught:
        case.bring(case.folder / "disk", format=said)
    assert code(caught) == "format_mismatch"
    assert (case.leftovers(), case.digests()) == ([], [])


@needs_qemu_img
def test_disks_that_point_elsewhere_are_refused(case: Case) -> None:
    folder = case.folder
    (folder / "secret").write_bytes(os.urandom(1 << 20))
    qemu_img("create", "-q", "-f", "qcow2", "-b", folder / "secret", "-F", "raw", folder / "backed", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={folder / 'data'}", folder / "external", "1M")
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", folder / "flat.vmdk", "1M")
    sparse = bytearray(1 << 16)
    text = b'# Disk DescriptorFile\nparentCID=ffffffff\nRW 2048 FLAT "/etc/shadow" 0\n'
    sparse[:44] = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 1, 20)
    sparse[512 : 512 + len(text)] = text
    (folder / "sneaky.vmdk").write_bytes(sparse)
    for name, expected in (
        ("backed", "backing_file_refused"),
        ("external", "backing_file_refused"),
        ("flat.vmdk", "extents_refused"),
        ("sneaky.vmdk", "extents_refused"),
    ):
        with pytest.raises(Denied) as caught:
            case.bring(folder / name)
        assert code(caught) == expected, name
    assert (case.leftovers(), case.digests()) == ([], [])


@needs_qemu_img
def test_absurd_damaged_and_truncated_disks_are_refused(case: Case) -> None:
    folder = case.folder
    qemu_img("create", "-q", "-f", "qcow2", folder / "huge", "5T")
    with pytest.raises(Invalid) as caught:
        case.bring(folder / "huge")
    assert code(caught) == "too_large"
    qemu_img("create", "-q", "-f", "qcow2", folder / "whole", "32M")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 24M", folder / "whole"], check=True, stdout=-3)
    data = (folder / "whole").read_bytes()
    # Cut off in the data; an L1 table in the void; a reference count table of nonsense.
    for bad in (
        data[: len(data) // 2],
        data[:200_000],
        data[:40] + b"\xff" * 8 + data[48:],
        data[:70_000] + b"\xa5" * 70_000,
    ):
        (folder / "bad").write_bytes(bad)
        with pytest.raises(Invalid) as caught:
            case.bring(folder / "bad")
        assert code(caught) == "corrupt_image"
    assert (case.leftovers(), case.digests()) == ([], [])


def test_files_that_are_none(case: Case) -> None:
    os.mkfifo(case.folder / "pipe")
    (case.folder / "empty").touch()
    for name, expected in (("pipe", "not_a_file"), ("empty", "empty_file"), ("none", "file_not_found"), (".", None)):
        with pytest.raises(TriuneError) as caught:
            case.bring(case.folder / name)
        assert expected is None or code(caught) == expected
    assert case.leftovers() == []


def test_checksums_are_compared(case: Case) -> None:
    source = root_tarball(case.folder / "root.tar.gz")
    with pytest.raises(Invalid) as caught:
        case.bring(source, sha256="0" * 64)
    assert code(caught) == "checksum_mismatch"
    assert case.leftovers() == []
    case.bring(source, sha256=hashlib.sha256(source.read_bytes()).hexdigest().upper())


def test_an_installer_is_kept_as_it_is(case: Case) -> None:
    iso = case.folder / "x.iso"
    iso.write_bytes(bytes(510) + b"\x55\xaa" + bytes(0x8001 - 512) + b"CD001" + bytes(4096))
    case.bring(iso, firmware="uefi")
    kept, _ = case.images.form("box/1", FormKind.DISK, Silent())
    assert isinstance(kept, DiskForm)
    assert kept.path is None
    assert kept.iso is not None
    assert kept.iso.read_bytes() == iso.read_bytes()
    assert kept.firmware == "uefi"


def test_an_oci_archive_goes_to_the_store_and_can_be_loaded_again(case: Case) -> None:
    case.bring(oci_archive(case.folder / "oci.tar"))
    assert case.images.kinds("box/1") == {FormKind.OCI}
    assert "triune/box:1" in case.oci.tags
    case.oci.clear()
    form, _ = case.images.form("box/1", FormKind.OCI, Silent())
    assert isinstance(form, OciForm)


def test_a_full_disk_is_told_with_figures(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(case.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    with pytest.raises(Failed) as caught:
        case.bring(root_tarball(case.folder / "root.tar.gz"))
    assert code(caught) == "no_space"
    assert caught.value.details["free"] == 4096
    with pytest.raises(Failed) as caught:
        case.images.build("debian/12", BuildOptions(), Silent())
    assert code(caught) == "no_space"
    assert case.leftovers() == []


def fake_build(store: ImageStore, name: str, options: BuildOptions, _: object) -> Manifest:
    wanted = wanted_options(options)
    digest = hashlib.sha256(json.dumps([name, wanted]).encode()).hexdigest()
    with store.work("build") as work:
        (work / "private/tree/bin").mkdir(parents=True)
        manifest = Manifest(
            name=name, digest=digest, created=datetime.now(UTC), source="test", options=wanted,
            tree=TreeFiles(path="private/tree", init="/sbin/init", size=1),
        )  # fmt: skip
        store.publish(work, manifest)
    return manifest


def test_the_same_build_is_not_done_twice(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(store: ImageStore, name: str, options: BuildOptions, progress: object) -> Manifest:
        built.append(name)
        return fake_build(store, name, options, progress)

    monkeypatch.setattr(module, "build_image", build)
    first = case.images.build("debian/12", BuildOptions(packages=("bb", "aa")), Silent())
    again = case.images.build("debian/12", BuildOptions(packages=("aa", "bb")), Silent())
    assert first.digest == again.digest
    assert len(built) == 1
    case.images.build("debian/12", BuildOptions(packages=("aa", "bb"), rebuild=True), Silent())
    case.used = {"debian/12": ["x"]}
    other = case.images.build("debian/12", BuildOptions(size=2 * GIB), Silent())
    assert len(built) == 3
    assert other.digest != first.digest
    assert len(case.digests()) == 2
    assert FormKind.OCI in other.forms


def test_two_changes_of_one_name_at_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def build(store: ImageStore, name: str, options: BuildOptions, progress: object) -> Manifest:
        begun.set()
        assert go.wait(PATIENCE)
        return fake_build(store, name, options, progress)

    monkeypatch.setattr(module, "build_image", build)
    thread = threading.Thread(target=lambda: case.images.build("debian/12", BuildOptions(), Silent()))
    thread.start()
    assert begun.wait(PATIENCE)
    with pytest.raises(Conflict) as caught:
        case.images.remove("debian/12")
    assert code(caught) == "image_busy"
    go.set()
    thread.join()
    assert case.images.get("debian/12").forms


def test_manifests_are_read_back(tmp_path: Path) -> None:
    manifest = Manifest(
        name="a/1", digest="0" * 64, created=datetime.now(UTC), source="s", packages={"x": "1"}, notes=("n",),
        tree=TreeFiles(path="t", init="/i", size=3), command=("c",),
    )  # fmt: skip
    assert parse(manifest.to_json(), tmp_path) == manifest
    for raw in (b"", b"[]", b'{"version": 2}', b'{"version": 1}', replace(manifest, name="b").to_json()[:-9]):
        with pytest.raises(Failed) as caught:
            parse(raw, tmp_path)
        assert code(caught) == "bad_manifest"


@pytest.mark.parametrize(
    "given",
    [
        {"packages": ("a; rm -rf /",)}, {"packages": ("-oX=y",)}, {"packages": ("a\nb",)}, {"size": 5},
        {"size": 1 << 60}, {"mirror": "http://x/\nDeb: y"}, {"mirror": "x"}, {"kernel": "none"},
    ],
)  # fmt: skip
def test_build_options_are_checked(given: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        BuildOptions(**given)  # type: ignore[arg-type]


def test_a_release_under_another_name_and_units_that_do_not_start_are_told_apart() -> None:
    plain = BuildOptions().as_dict()
    assert "release" not in plain, "digests of images that were built before must not change"
    assert "disabled" not in plain
    wanted = BuildOptions(release="debian/12", disabled=("b.service", "a.timer")).as_dict()
    assert (wanted["release"], wanted["disabled"]) == ("debian/12", ["a.timer", "b.service"])
    for unit in ("nginx", "../x.service", "a b.service", "-.service\n"):
        with pytest.raises(Invalid):
            BuildOptions(disabled=(unit,))
