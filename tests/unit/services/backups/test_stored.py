"""What the repository's program says, read back; whatever it says, nothing breaks."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed
from triune.services.backups import stored

ID = "5d024c25" + "0" * 56
PACK = "0a0cdf5ca6eddc4d06539a54a767fa1ebe2b42bc02662749a83842097d19c3d6"
ERRORS = f"""Pack ID does not match, want {PACK}, got acfa0711d43dff563f950d42d489f7dd540eb6e37828d4193d61c3a8b69bd35e
Fatal: repository contains errors
"""


def entry(**changes: object) -> dict[str, object]:
    tags = ["triune", "instance:web", "engine:lxc", "consistency:frozen"]
    return {"id": ID, "time": "2026-11-21T14:35:23.685111824Z", "hostname": "vm", "tags": tags, **changes}


def test_a_snapshot() -> None:
    (found,) = stored.parse_snapshots(json.dumps([entry()]).encode())
    assert (found.short, found.instance, found.engine, found.host) == ("5d024c25", "web", "lxc", "vm")
    assert found.time == datetime(2026, 11, 21, 14, 35, 23, 685111, tzinfo=UTC)


def test_snapshots_come_the_oldest_first_and_none_is_none() -> None:
    old = entry(id="1" * 64, time="2020-01-01T00:00:00+01:00")
    assert [one.id[0] for one in stored.parse_snapshots(json.dumps([entry(), old]).encode())] == ["1", "5"]
    assert stored.parse_snapshots(b"null") == []


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda it: json.dumps(it).encode())
)
def test_any_text_is_snapshots_or_a_clear_error(text: bytes) -> None:
    try:
        stored.parse_snapshots(text)
    except Failed as error:
        assert error.code == "repository_unreadable"


@given(st.text())
def test_no_output_breaks_the_readers(text: str) -> None:
    for reader in (stored.unreadable, stored.lost, stored.damaged_packs):
        assert isinstance(reader(text), list)
    assert stored.explain(text, "/srv").hint
    assert isinstance(stored.parse_line(text.encode(errors="replace")), dict)


def test_damage_is_found() -> None:
    assert stored.damaged_packs(ERRORS) == [PACK]
    assert stored.damaged_packs(f"error for pack {PACK}: does not exist") == [PACK]
    assert stored.damaged_packs("no errors were found") == []


def test_what_could_not_be_restored() -> None:
    said = "ignoring error for /root/etc/a: b: ciphertext verification failed\nFatal: There were 1 errors\n"
    assert stored.lost(said) == ["/root/etc/a"]


def test_what_could_not_be_read() -> None:
    line = {"message_type": "error", "error": {"message": "permission denied"}, "during": "archival", "item": "/x"}
    assert stored.unreadable(json.dumps(line) + "\nWarning: at least one\n") == ["/x: permission denied"]
    old = {"message_type": "error", "error": {"Op": "lstat", "Path": "x", "Err": 2}, "item": "/stage/root/x"}
    assert stored.unreadable(json.dumps(old), "/stage/") == ["root/x: No such file or directory"]


@pytest.mark.parametrize(
    ("said", "code", "exit_code"),
    [
        ("Fatal: wrong password or no key found", "wrong_key", 5),
        (
            "Fatal: unable to open repository: dial tcp 127.0.0.1:9: connect: connection refused",
            "repository_unreachable",
            7,
        ),
        ("Fatal: unable to create lock in backend: repository is already locked by PID 1", "repository_locked", 4),
        ("Fatal: unable to save snapshot: write /r/x: no space left on device", "no_space", 1),
        ("unable to create lock in backend: write: no space left on device", "no_space", 1),
        (
            "Fatal: unable to open config file\nIs there a repository at the following location?",
            "repository_not_found",
            3,
        ),
        ("Fatal: the sky fell", "repository_failed", 1),
    ],
)
def test_errors_have_a_code(said: str, code: str, exit_code: int) -> None:
    error = stored.explain(said, "/srv/backups")
    assert (error.code, error.exit_code) == (code, exit_code)
    assert "/srv/backups" in error.message
