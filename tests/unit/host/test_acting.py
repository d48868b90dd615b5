"""Files made as another user."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.host.acting import as_owner

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_files_are_anothers_and_the_rights_are_roots(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    turn = threading.Event()
    other = threading.Thread(target=lambda: (turn.wait(PATIENCE), (tmp_path / "beside").touch()))
    other.start()  # one that is made later has its maker's
    with as_owner(12345, 23456):
        made = tmp_path / "private/made"
        made.write_text("x")
        assert (made.stat().st_uid, made.stat().st_gid) == (12345, 23456)
        os.chown(made, 777, 888)
        turn.set()
        other.join()
    assert (tmp_path / "beside").stat().st_uid == 0, "only this thread acts so"
    (tmp_path / "after").touch()
    assert ((tmp_path / "after").stat().st_uid, made.stat().st_uid) == (0, 777)
