"""Who else has a folder mounted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.host import bindmounts
from triune.host.bindmounts import Mount, parse

ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
INSIDE = "300 299 254:0 /var/lib/vol\\040one /data rw - ext4 /dev/vda rw\n"


def test_lines_of_the_kernel() -> None:
    assert list(parse(ROOT + INSIDE)) == [Mount("254:0", "/", "/"), Mount("254:0", "/var/lib/vol one", "/data")]


@given(st.text())
def test_anything_else_is_no_mount_or_one(text: str) -> None:
    assert all(isinstance(one, Mount) for one in parse(text))


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two namespaces: ours and one that has the volume at /data."""
    for pid, namespace, text in (("1", "mnt:[1]", ROOT), ("77", "mnt:[2]", ROOT + INSIDE), ("78", "mnt:[2]", "")):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "ns" / "mnt").symlink_to(namespace)
        (tmp_path / pid / "mountinfo").write_text(text)
    (tmp_path / "self").symlink_to("1")
    monkeypatch.setattr(bindmounts, "_PROC", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("proc")
def test_who_has_it_mounted() -> None:
    assert len(bindmounts.users(Path("/var/lib/vol one"))) == 1
    assert len(bindmounts.users(Path("/var/lib"))) == 1, "a folder in it counts"
    assert bindmounts.users(Path("/var/lib/vol")) == []
    assert bindmounts.users(Path("/var/lib/vol one/deeper")) == []


def test_on_a_file_system_of_its_own(proc: Path) -> None:
    own = "40 22 7:3 /@sub /pool rw - btrfs /dev/loop3 rw\n"
    (proc / "1" / "mountinfo").write_text(ROOT + own)
    (proc / "77" / "mountinfo").write_text(ROOT + "301 299 7:3 /@sub/volumes/a /srv rw - btrfs /dev/loop3 rw\n")
    (proc / "78" / "mountinfo").write_text((proc / "77" / "mountinfo").read_text())
    assert len(bindmounts.users(Path("/pool/volumes/a"))) == 1
    assert bindmounts.users(Path("/pool/volumes/b")) == []
