"""A build that will never end is ended."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from tests.patience import Awake

from triune.domain.errors import Failed
from triune.domain.operation import Silent
from triune.services.images import rootfs

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "_SILENT", 0.5)


def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 40, 0, free))
    rootfs._run(["sh", "-c", script], {}, tmp_path, Silent())


def test_silence_on_a_full_disk_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Awake() as awake, pytest.raises(OSError) as caught:
        build(tmp_path, monkeypatch, "echo one >&2; sleep 600 & wait", free=1 << 20)
    assert caught.value.errno == errno.ENOSPC
    assert awake.seconds < 60


def test_silence_with_room_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, monkeypatch, "sleep 2.5", free=1 << 40)


def test_what_says_something_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "_SILENT", 30)
    with pytest.raises(Failed) as caught:
        build(tmp_path, monkeypatch, "for i in 1 2 3; do echo $i >&2; sleep 0.6; done; exit 1", free=1 << 20)
    assert caught.value.code == "bootstrap_failed"
