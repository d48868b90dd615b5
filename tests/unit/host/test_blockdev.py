"""Which file system a path is on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.host import blockdev
from triune.host.blockdev import mount_of

MOUNTS = """\
27 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
30 27 0:39 / /var/lib/lxc/a/rootfs rw - overlay overlay rw,lowerdir=/low,upperdir=/data/with\\040space/up,workdir=/w
31 27 0:40 / /data rw - btrfs /dev/vdb rw,subvol=/
32 31 0:41 / /data rw - ext4 /dev/vdc rw
"""


def test_the_nearest_and_newest_mount_wins() -> None:
    assert (mount_of(Path("/etc"), MOUNTS) or ())[:2] == ("ext4", "/dev/vda1")
    assert (mount_of(Path("/data/x"), MOUNTS) or ())[:2] == ("ext4", "/dev/vdc")
    assert (mount_of(Path("/database"), MOUNTS) or ())[:2] == ("ext4", "/dev/vda1")
    kind, _, options = mount_of(Path("/var/lib/lxc/a/rootfs"), MOUNTS) or ("", "", {})
    assert (kind, options["upperdir"]) == ("overlay", "/data/with space/up")


def test_memory_has_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert blockdev.disk_of(Path("/proc")) is None
    table = tmp_path / "mountinfo"
    table.write_text("30 27 0:39 / / rw - overlay overlay rw,lowerdir=/low,upperdir=/,workdir=/w\n")
    monkeypatch.setattr(blockdev, "_MOUNTINFO", table)
    assert blockdev.disk_of(Path("/")) is None


@given(st.text())
def test_any_table_is_read(text: str) -> None:
    mount_of(Path("/a"), text)
