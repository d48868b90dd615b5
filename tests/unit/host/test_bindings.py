"""Modules of the distribution, loaded into a virtual environment that does not see them."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.host import bindings


def test_threads_that_load_at_once_all_get_the_whole_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slowbinding.py").write_text("import time\ntime.sleep(0.3)\nwhole = True\n")
    monkeypatch.setattr(bindings, "_DIST_PACKAGES", tmp_path)
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append(hasattr(bindings.load("slowbinding"), "whole"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    sys.modules.pop("slowbinding", None)
    assert found == [True] * 4


def test_what_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "_DIST_PACKAGES", tmp_path)
    with pytest.raises(ImportError):
        bindings.load("nosuchbinding")
