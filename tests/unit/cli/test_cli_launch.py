"""What `launch` makes of its options before it asks the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from triune.cli.launch import _volume


def test_relative_folders_are_this_machines_and_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home-of-mine")
    assert _volume("./www:/srv:ro") == f"{tmp_path}/www:/srv:ro"
    assert _volume("~/www:/srv") == "/home-of-mine/www:/srv"
    assert _volume("data:/srv") == "data:/srv"
    assert _volume("/etc/app:/etc/app") == "/etc/app:/etc/app"
