"""Streams of a tree's tar."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.domain.errors import Failed
from triune.services.images import streams


def fake_tar(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "bin" / "tar"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    path = f"{program.parent}:/usr/bin:/bin"
    monkeypatch.setenv("PATH", path)

    def environment(_: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"PATH": path}

    monkeypatch.setattr(streams, "environment", environment)


def test_a_tar_that_complains_at_length_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tar(tmp_path, monkeypatch, "head -c 1000000 /dev/zero >&2; echo the end; echo last words >&2; exit 2")
    outcome: list[BaseException | bytes] = []

    def read() -> None:
        try:
            with streams.tree_stream(tmp_path) as chunks:
                outcome.append(b"".join(chunks))
        except Failed as error:
            outcome.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, "it hangs"
    assert isinstance(outcome[0], Failed)
    assert "last words" in outcome[0].message
