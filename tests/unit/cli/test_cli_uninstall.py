"""`triune uninstall` refuses before it touches anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from triune.app import Settings
from triune.cli import uninstall as module
from triune.cli.uninstall import uninstall
from triune.domain.errors import Conflict, Denied, Invalid, NotFound
from triune.host.setup.service import SOCKET
from triune.store import Put, SqliteStore


@pytest.fixture(autouse=True)
def nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it began")

    monkeypatch.setattr(module, "carry_out", never)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def raised(*argv: str) -> BaseException | None:
    return CliRunner().invoke(uninstall, argv, standalone_mode=False).exception


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert isinstance(raised("--yes"), Denied)


def test_a_named_configuration_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIUNE_CONFIG", str(tmp_path / "none.toml"))
    error = raised("--yes")
    assert isinstance(error, NotFound), "else the host's own daemon would be meant"
    assert error.code == "no_config"


def configured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    config = folder / "triune.toml"
    config.write_text(f'data = "{folder}/data"\nsocket = "{folder}/triune.sock"\n')
    monkeypatch.setenv("TRIUNE_CONFIG", str(config))
    return Settings.load(config)


def test_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert isinstance(raised(), Invalid)


def test_data_of_instances_are_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, monkeypatch)
    monkeypatch.setenv("TRIUNE_FAKE_ENGINES", "kvm,lxc,docker")
    store = SqliteStore(settings.data / "triune.db")
    store.commit([Put("instances/web", {"engine": "lxc", "spec": {}})])
    store.close()
    error = raised("--data", "--yes")
    assert isinstance(error, Conflict)
    assert (error.code, error.details["instances"]) == ("instances_left", ["web"])


def test_machine_wide_things_go_only_with_the_daemon_that_setup_starts(tmp_path: Path) -> None:
    def titles(settings: Settings, *, data: bool) -> list[str]:
        return [step.title for step in module._plan(settings, module._State(settings), data=data)]

    own = Settings(data=tmp_path, socket=tmp_path / "triune.sock")
    assert titles(own, data=False) == ["Triune's daemon", "Networks"]
    installed = Settings(data=tmp_path, socket=Path(SOCKET))
    assert titles(installed, data=True) == [
        "Triune's daemon", "No instances", "Networks", "Command triune on PATH", "Shell completion", "Triune's data",
        "Rootless Docker daemon", "Group, kernel limits and log",
    ]  # fmt: skip
