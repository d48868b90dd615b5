"""Repositories, keys and rules of keeping, as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from triune.domain.errors import Invalid
from triune.services.backups import key
from triune.services.backups.request import BackupSettings, Keep, parse_keep, place

NONE = BackupSettings(password_file=Path("/nowhere/key"))


def test_a_folder_and_the_configured_key() -> None:
    found = place("/srv/backups", "", NONE)
    assert (found.folder, found.password_file, found.made) == (Path("/srv/backups"), Path("/nowhere/key"), True)


def test_the_configured_repository() -> None:
    found = place("", "", BackupSettings(repository="s3:https://host/bucket"))
    assert (found.address, found.folder) == ("s3:https://host/bucket", None)


@pytest.mark.parametrize(
    ("address", "password_file", "code"),
    [
        ("", "", "no_repository"),
        ("backups", "", "bad_repository"),
        ("rclone:x", "", "bad_repository"),
        ("--option", "", "bad_repository"),
        ("/srv\nx", "", "control_character"),
        ("/srv", "key", "bad_password_file"),
        ("/srv", "/nowhere/at/all", "bad_password_file"),
    ],
)
def test_refused(address: str, password_file: str, code: str) -> None:
    with pytest.raises(Invalid) as error:
        place(address, password_file, NONE)
    assert error.value.code == code


def test_a_rule_as_words() -> None:
    assert Keep(daily=7, monthly=1).words() == ["--keep-daily", "7", "--keep-monthly", "1"]
    assert parse_keep({"last": 3}) == Keep(last=3)
    assert parse_keep({}) is None


@pytest.mark.parametrize("given", [{"last": 0}, {"minutely": 3}, {"daily": -1}])
def test_a_rule_that_keeps_nothing_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(Invalid):
        parse_keep(given)


def test_a_key_is_made_once_and_for_root_only(tmp_path: Path) -> None:
    path = tmp_path / "triune" / "backup.key"
    assert key.ensure(path)
    text = path.read_text()
    assert len(text) > 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert not key.ensure(path)
    assert path.read_text() == text
    assert [one.name for one in path.parent.iterdir()] == ["backup.key"]


def test_variables(tmp_path: Path) -> None:
    path = tmp_path / "env"
    assert key.environment(path) == {}
    path.write_text('# mine\nAWS_ACCESS_KEY_ID=a=b\n\nAWS_SECRET_ACCESS_KEY="c"\n')
    assert key.environment(path) == {"AWS_ACCESS_KEY_ID": "a=b", "AWS_SECRET_ACCESS_KEY": "c"}
    path.write_text("export X\n")
    with pytest.raises(Invalid):
        key.environment(path)
