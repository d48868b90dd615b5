"""Our block in /etc/hosts, and everybody else's lines."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed, Invalid
from triune.host import hosts_file

OTHERS = b"127.0.0.1\tlocalhost\n192.0.2.7 printer # the big one\n"
WEB = {"10.87.0.10": ("web.triune.internal", "web")}
BLOCK = b"# triune begin\n10.87.0.10 web.triune.internal web\n# triune end\n"


def test_a_block_is_added_replaced_and_removed() -> None:
    once = hosts_file.compose(OTHERS, WEB)
    assert once == OTHERS + BLOCK
    assert hosts_file.compose(once, WEB) == once
    assert hosts_file.compose(once, {}) == OTHERS


def test_a_file_without_a_last_line_end_gets_one() -> None:
    assert hosts_file.compose(OTHERS.rstrip(b"\n"), WEB) == OTHERS + BLOCK


@pytest.mark.parametrize("name", ["printer", "localhost", socket.gethostname().lower()])
def test_names_of_others_are_not_shadowed(name: str) -> None:
    names = {"10.87.0.11": (f"{name}.triune.internal", name)}
    assert hosts_file.compose(OTHERS, names) == OTHERS


def test_a_name_in_a_comment_is_free() -> None:
    names = {"10.87.0.11": ("big.triune.internal", "big")}
    assert b"10.87.0.11 big.triune.internal big" in hosts_file.compose(OTHERS, names)


@pytest.mark.parametrize("name", ["a\nb", "a\r10.0.0.1 bank", "a\x00"])
def test_a_control_character_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="host name"):
        hosts_file.compose(OTHERS, {"10.87.0.11": (f"{name}.x", name)})


def test_a_lost_end_makes_no_line_ours() -> None:
    damaged = b"# triune begin\n10.87.0.10 web\n192.0.2.9 precious\n" + BLOCK
    others, ours = hosts_file.split(damaged)
    assert b"192.0.2.9 precious" in others
    assert ours == [b"10.87.0.10 web.triune.internal web"]


_LINE = st.one_of(
    st.sampled_from([b"# triune begin", b"# triune end", b" # triune end ", b"", b"127.0.0.1 localhost"]),
    st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")),
)


@given(st.lists(_LINE, max_size=12), st.booleans())
def test_whatever_the_file_is_composing_twice_changes_nothing_more(lines: list[bytes], filled: bool) -> None:
    content = b"\n".join(lines)
    names = WEB if filled else {}
    once = hosts_file.compose(content, names)
    assert hosts_file.compose(once, names) == once
    markers = (b"# triune begin", b"# triune end")
    others = [line for line in hosts_file.split(content)[0] if line]
    assert [line for line in hosts_file.split(once)[0] if line] == others
    assert not any(line.strip() in markers for line in others)


def test_mode_and_owner_stay_and_a_symlink_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(OTHERS)
    real.chmod(0o664)
    link = tmp_path / "hosts"
    link.symlink_to(real)
    assert hosts_file.write(link, WEB)
    assert not hosts_file.write(link, WEB)
    assert link.is_symlink()
    assert real.read_bytes() == OTHERS + BLOCK
    assert real.stat().st_mode & 0o777 == 0o664
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts", "real"]


def test_a_file_that_cannot_be_renamed_over_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "hosts"
    target.write_bytes(OTHERS + BLOCK)
    inode = target.stat().st_ino

    def refuse(self: Path, other: Path) -> None:
        raise OSError(16, os.strerror(16))

    monkeypatch.setattr(Path, "rename", refuse)
    assert hosts_file.write(target, {})
    assert target.read_bytes() == OTHERS
    assert target.stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]


def test_a_failure_says_what_it_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "hosts"
    target.write_bytes(OTHERS)

    def refuse(self: Path, other: Path) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Failed, match="could not be written: Read-only file system"):
        hosts_file.write(target, WEB)
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]


def test_two_daemons_do_not_bring_back_each_others_past(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")

    def live(label: str) -> None:
        for number in range(60):
            hosts_file.write(path, {"10.1.2.3": (f"{label}-{number}",)}, label)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(live, ("one", "two")))
    text = path.read_text()
    assert "one-59" in text
    assert "two-59" in text
