"""The commands that look and get back, on real volumes and on one in memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rescue.fakes import FakeVolume, Runs
from triune.cli.rescue.sources import apart
from triune.cli.root import main
from triune.disks.content import Run
from triune.domain.errors import Invalid, NotFound
from triune.domain.rescue import FileKind, Status
from triune.services.rescue import finding
from triune.services.rescue.selecting import file, matches, named, select, split

Image = Callable[[str], Path]


def printed(capfdbinary: pytest.CaptureFixture[bytes], *argv: str) -> bytes:
    """What a command writes to standard output."""
    assert main(["rescue", *argv]) == 0
    sys.stdout.flush()
    return capfdbinary.readouterr().out


def test_real_files(image: Image, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = str(image("vmfs6"))
    rows = json.loads(printed(capfdbinary, "ls", path, "--format", "json"))
    by_path = {row["path"]: row for row in rows}
    assert {"big", "bigger", "small", "directory", "large-flat.vmdk"} <= set(by_path)
    assert by_path["small"]["status"] == "intact"
    assert by_path["small"]["volume"] == "vmfs6"
    assert by_path["symlink"]["target"] == "/vmfs/volumes/vmfs6/small"
    assert b"directory/file1" not in printed(capfdbinary, "ls", path)
    assert b"directory/file1" in printed(capfdbinary, "ls", "-R", path)
    assert len(json.loads(printed(capfdbinary, "ls", path, "directory", "--format", "json"))) == 100
    assert b".fbb.sf" in printed(capfdbinary, "ls", "-a", path)
    assert printed(capfdbinary, "cat", path, "small") == b"tiny\n"
    assert printed(capfdbinary, "cat", path, "/small", "--offset", "1", "--length", "2") == b"in"
    facts = json.loads(printed(capfdbinary, "stat", path, "normal-flat.vmdk", "--format", "json"))
    assert (facts["size"], facts["data"], facts["missing"]) == (74088185856, 1 << 20, [])
    found = json.loads(printed(capfdbinary, "find", path, "--name", "SMALL", "--format", "json"))
    assert [row["path"] for row in found] == ["small"]


def test_a_name_that_is_not_there_has_others_near_it(image: Image) -> None:
    with pytest.raises(NotFound) as caught:
        main(["rescue", "cat", str(image("vmfs6")), "nosuch"])
    assert caught.value.hint == "Near it: big, bigger, collision."


def test_a_volume_of_which_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = FakeVolume()
    monkeypatch.setattr(finding, "volumes", lambda *_args, **_more: [volume])
    argv = ["rescue", "extract", str(tmp_path / "disk"), "--to", str(tmp_path / "out"), "-q"]
    assert main(argv) == 0
    monkeypatch.setattr(FakeVolume, "damages", lambda _self: ["its superblock is lost"])
    assert main(argv) == 1
    assert main([*argv, "--status", "partial"]) == 0


def test_a_volume_here_needs_neither_the_network_nor_arrays(image: Image) -> None:
    code = f"import sys\nfrom triune.cli.root import main\nmain(['rescue', 'ls', {str(image('vmfs6'))!r}])\n"
    code += "print('IMPORTED', {'asyncssh', 'asyncio', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("IMPORTED set()\n")


def test_extract_a_real_volume(image: Image, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = str(image("vmfs5"))
    assert b"102 files" in printed(capfdbinary, "extract", path, "directory", "small", "bigger", "--to", str(tmp_path))
    told = json.loads((tmp_path / "manifest.json").read_text())
    assert len(told) == 102
    for one in told:
        assert hashlib.sha256((tmp_path / one["path"]).read_bytes()).hexdigest() == one["sha256"]
        assert one["status"] == "intact"
    assert (tmp_path / "small").read_bytes() == b"tiny\n"


def test_a_pattern_that_names_nothing(image: Image, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        main(["rescue", "extract", str(image("vmfs5")), "smal", "--to", str(tmp_path / "out")])
    assert "small" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_two_volumes(image: Image, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    both = (str(image("vmfs5")), str(image("vmfs6")))
    for path in ("vmfs6:small", "vmfs6/small"):
        assert printed(capfdbinary, "cat", *both, path) == b"tiny\n"
    with pytest.raises(Invalid, match="several volumes"):
        main(["rescue", "cat", *both, "small"])
    rows = json.loads(printed(capfdbinary, "ls", *both, "--volume", "vmfs5", "--format", "json"))
    assert {row["volume"] for row in rows} == {"vmfs5"}
    assert "small" in {row["path"] for row in rows}


@pytest.fixture
def partial(monkeypatch: pytest.MonkeyPatch) -> FakeVolume:
    volume = FakeVolume()
    volume.add("vm", b"", kind=FileKind.FOLDER)
    volume.add("vm/a.vmx", b"whole")
    volume.add("vm/b.vmdk", Runs(100, [Run(50, 50, why="lost")]), status=Status.PARTIAL, missing=((50, 50),))
    volume.add("gone.vmx", b"gone", status=Status.DELETED, confidence=0.5, reasons=("its name was found in a log",))
    monkeypatch.setattr(finding, "volumes", lambda *_names, **_options: [volume])
    return volume


def test_exit_codes_and_what_is_told(partial: FakeVolume, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del partial
    assert main(["rescue", "extract", "disk", "*.vmx", "--to", str(tmp_path / "a")]) == 0
    assert main(["rescue", "extract", "disk", "--to", str(tmp_path / "b")]) == 1
    said = capsys.readouterr()
    assert "vm/b.vmdk: partial: 50 B of 100 B missing, in 1 range" in said.err
    assert "2 files" in said.out
    assert (tmp_path / "b/vm/a.vmx").read_bytes() == b"whole"
    assert (
        main(["rescue", "extract", "disk", "--status", "deleted", "--to", str(tmp_path / "c"), "--format", "json"]) == 1
    )
    files = json.loads(capsys.readouterr().out)["files"]
    assert [(one["path"], one["status"]) for one in files] == [("gone.vmx", "deleted")]
    assert main(["rescue", "ls", "disk", "-R", "-l", "--deleted"]) == 0
    said = capsys.readouterr()
    assert "50 B missing" in said.out
    assert "its name was found in a log" in said.out
    assert main(["rescue", "stat", "disk", "vm/b.vmdk"]) == 0
    assert "50 bytes at 50" in capsys.readouterr().out
    with pytest.raises(Exception, match="missing"):
        main(["rescue", "cat", "disk", "vm/b.vmdk"])


def test_sources_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.img").touch()
    (tmp_path / "vm").mkdir()
    assert apart(["gone.img", "one.img", "esxi://root@h/ds", "vm", "one.img"]) == (
        ["gone.img", "one.img", "esxi://root@h/ds"],
        ["vm", "one.img"],
    )
    assert apart(["one.img", ":one.img"]) == (["one.img"], [":one.img"])


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("vm/a.vmx", "vm", True),
        ("vm/a.vmx", "*.vmx", True),
        ("vm/a.vmx", "vm/*", True),
        ("vm/a.vmx", "a.vmx", True),
        ("vm/a[1].vmx", "vm/a[1].vmx", True),
        ("vm/a.vmx", "v", False),
        ("vm2/a.vmx", "vm/*", False),
        ("x/vm/a", "vm/*", False),
        ("vm1/sub/a", "vm?", True),
    ],
)
def test_patterns(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


def test_volumes_that_are_named_alike() -> None:
    volumes = named(
        [FakeVolume(uuid="1"), FakeVolume(uuid="2"), FakeVolume(label="a/b"), FakeVolume(label="", uuid="")]
    )
    assert [one.name for one in volumes] == ["store", "store~2", "a_b", "volume4"]
    assert named([FakeVolume(uuid="7")], "7")[0].name == "store"
    with pytest.raises(NotFound, match="no volume x"):
        named([FakeVolume()], "x")
    assert split("store~2:vm/a", volumes) == ([volumes[1]], "vm/a")
    assert split("a_b", volumes) == ([volumes[2]], "")
    assert split(":store:vm", volumes) == (volumes, "store:vm")


def test_a_file_of_one_of_two_volumes() -> None:
    one, other = FakeVolume(label="one"), FakeVolume(label="other")
    other.add("web.vmx", b"x")
    chosen = file("web.vmx", named([one, other]))
    assert chosen.path == "other/web.vmx"
    assert [hit.path for hit in select(named([one, other]), ["*.vmx"])] == ["other/web.vmx"]
