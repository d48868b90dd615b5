"""What goes through liblxc's binding, and what must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from triune.engines.lxc import client as module
from triune.engines.lxc.client import Client
from triune.host.run import Result


def test_nothing_that_may_wait_holds_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(argv: Any, **_: Any) -> Result:
        ran.append([str(word) for word in argv])
        return Result(0, b"", b"")

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(Client, "binding", lambda _: pytest.fail("the binding holds the interpreter lock"))
    client = Client(tmp_path)
    (tmp_path / "one").mkdir()
    assert client.freeze("one") and client.unfreeze("one")
    client.start("one")
    client.ask_shutdown("one")
    client.kill("one")
    assert [words[0] for words in ran] == ["lxc-freeze", "lxc-unfreeze", "lxc-start", "lxc-stop", "lxc-stop"]
    assert all(words[1:5] == ["-P", str(tmp_path), "-n", "one"] for words in ran)


def test_a_freeze_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run", lambda *_, **__: Result(1, b"", b"no such container"))
    assert not Client(tmp_path).freeze("one")
    assert not Client(tmp_path).unfreeze("one")
