"""Steps of uninstall on canned hosts: only what is ours goes, and what others put there stays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.unit.host.setup.test_setup_steps import CannedMachine, quiet

from triune.domain.errors import Failed
from triune.host.setup import removal
from triune.host.setup.limits import FILE
from triune.host.setup.plan import carry_out
from triune.host.setup.removal import CommandGone, CompletionGone, DaemonGone, DataGone, TracesGone
from triune.host.setup.service import COMMAND, COMPLETIONS, LOG, SOCKET, UNIT, own_command

SYSTEMD = {"run/systemd/system/.keep": "", UNIT.lstrip("/"): "[Unit]\n"}


def test_the_unit_goes_with_the_daemon(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {**SYSTEMD, "run/triune/triune.pid": "1\n"})
    step = DaemonGone(machine, Path(SOCKET), installed=True)
    assert step.gap() == f"stop it and remove {UNIT}"
    step.fill(quiet)
    assert step.gap() is None
    told = [argv[:3] for argv in machine.done]  # type: ignore[attr-defined]
    assert told == [("systemctl", "disable", "--now"), ("systemctl", "daemon-reload")]
    assert not (tmp_path / "run/triune").exists()


def test_another_daemons_unit_stays(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, SYSTEMD)
    assert DaemonGone(machine, Path("/srv/triune.sock"), installed=False).gap() is None


def test_only_our_own_link_goes(tmp_path: Path) -> None:
    machine = CannedMachine(tmp_path, {COMMAND.lstrip("/"): "#!/bin/sh\n"})
    step, path = CommandGone(machine), tmp_path / COMMAND.lstrip("/")
    assert step.gap() is None, "a file is somebody's own"
    path.unlink()
    path.symlink_to("/opt/another/triune")
    assert step.gap() is None
    path.unlink()
    path.symlink_to(own_command())
    assert step.gap() == f"remove {COMMAND}"
    step.fill(quiet)
    assert not path.is_symlink()


def test_only_our_own_completions_go(tmp_path: Path) -> None:
    bash, zsh, _ = (path.lstrip("/") for path in COMPLETIONS.values())
    machine = CannedMachine(tmp_path, {bash: "_TRIUNE_COMPLETE=bash_complete triune\n", zsh: "# somebody's\n"})
    step = CompletionGone(machine)
    assert step.gap() == f"remove /{bash}"
    step.fill(quiet)
    assert (step.gap(), (tmp_path / zsh).exists()) == (None, True)


def test_what_others_put_into_the_data_folder_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "images/private").mkdir(parents=True)
    for name in ("bench", "audits"):
        (folder / name).mkdir()
    for name in ("triune.db", "triune.db-wal", "lock", "notes.txt"):
        (folder / name).touch()
    (folder / "instances").symlink_to(tmp_path)
    emptied, said = [], []
    step = DataGone(folder, lambda: emptied.append(True))
    step.fill(lambda mark, text: said.append(text))
    assert (step.gap(), emptied) == (None, [True])
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert said == [f"{folder} stays, for there are files of others in it"]
    (folder / "notes.txt").unlink()
    (folder / "lock").touch()
    DataGone(folder, lambda: None).fill(quiet)
    assert not folder.exists()
    assert tmp_path.is_dir(), "links are not followed"


def test_a_mount_in_the_data_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    monkeypatch.setattr(removal, "remove_tree", busy)
    with pytest.raises(Failed, match="images could not be removed: Device or resource busy"):
        DataGone(tmp_path, lambda: None).fill(quiet)


def test_the_group_and_the_limits_go_with_the_data(tmp_path: Path) -> None:
    tree = {"etc/group": "root:x:0:\ntriune:x:990:\n", FILE.lstrip("/"): "", LOG.lstrip("/"): ""}
    machine = CannedMachine(tmp_path, tree)
    step = TracesGone(machine)
    assert step.gap() == f"remove {FILE}, {LOG}, group triune"
    step.fill(quiet)
    assert machine.done == [("groupdel", "triune")]  # type: ignore[attr-defined]
    assert step.gap() == "remove group triune", "nothing here removed it"


def test_what_fails_and_is_needed_ends_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()

    def cannot() -> None:
        raise Failed("pool_left", "the pool fast is busy", hint="See who uses it.")

    with pytest.raises(Failed, match="the pool fast is busy"):
        carry_out([DataGone(tmp_path, cannot)], quiet, "Repeat.")
    assert (tmp_path / "images").is_dir()
