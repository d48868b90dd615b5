"""Raw devices over SSH: right bytes by every way, and a clear word where there are none."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.rescue.esxi.conftest import NAME, SIZE
from tests.rescue.esxi.host import PASSWORD, Host, Manners, fingerprint
from triune.disks.source import Unreadable
from triune.domain.errors import Denied, Failed, Invalid, NotFound, Unreachable
from triune.services.rescue.esxi.access import Access, Passwords, Patience
from triune.services.rescue.esxi.address import parse_address
from triune.services.rescue.esxi.buffered import RemoteSource
from triune.services.rescue.esxi.known import KnownHosts
from triune.services.rescue.esxi.opening import list_devices
from triune.services.rescue.esxi.readers import BLOCK, size_told

Open = Callable[..., RemoteSource]


def check(source: RemoteSource, data: bytes, reads: int = 60) -> None:
    """Random reads, a stream in odd steps, and the whole."""
    dice = random.Random(3)
    assert source.size == len(data)
    for _ in range(reads):
        offset, length = dice.randrange(len(data)), dice.randrange(3 * BLOCK)
        assert source.read(offset, length) == data[offset : offset + length]
    got = b""
    while part := source.read(len(got), 100_001):
        got += part
    assert got == data
    assert source.read(0, 2 * len(data)) == data
    assert source.read(len(data), 10) == b""
    assert source.read(5, 0) == b""


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "dd"])
@pytest.mark.parametrize("longest", [0, 10_000], ids=["whole", "short"])
def test_bytes(
    manners: Manners, image: Path, opened: Open, request: pytest.FixtureRequest, longest: int, sftp: bool
) -> None:
    manners.longest_answer = longest
    if not sftp:
        _without_sftp(request)
    check(opened(), image.read_bytes())


def _without_sftp(request: pytest.FixtureRequest) -> None:
    host: Host = request.getfixturevalue("host")
    host.stop()
    host.manners.sftp = False
    host.start()


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "dd"])
def test_dropped_connections_are_taken_up(
    manners: Manners, image: Path, opened: Open, request: pytest.FixtureRequest, said: list[str], sftp: bool
) -> None:
    if not sftp:
        _without_sftp(request)
    manners.drop_every = 7
    check(opened(), image.read_bytes(), reads=20)
    assert manners.connections > 2
    assert any("again" in sentence for sentence in said)


def test_a_host_that_is_gone_is_said_after_some_tries(host: Host, opened: Open) -> None:
    source = opened()
    source.read(2 * BLOCK * 5, 10)
    host.stop()
    with pytest.raises(Unreachable, match="went away"):
        source.read(SIZE - 600_000, 10)
    with pytest.raises(Unreachable):
        source.read(SIZE - 900_000, 10)


def test_a_host_that_always_hangs_up_is_not_asked_for_ever(manners: Manners, opened: Open) -> None:
    source = opened()
    manners.drop_all = True
    with pytest.raises(Unreachable, match="before a byte"):
        source.read(SIZE // 2, 10)
    assert manners.connections < 12


def test_a_host_that_comes_back_goes_on(host: Host, image: Path, opened: Open, access: Access) -> None:
    source = opened(patience=replace(access.patience, tries=10_000))
    host.stop()
    back = threading.Timer(0.05, host.start)
    back.start()
    assert source.read(SIZE // 2, 1000) == image.read_bytes()[SIZE // 2 :][:1000]
    back.join()


def hurried(source: RemoteSource, patience: Patience) -> None:
    """Give it less patience, now that it is open: opening takes as long as this machine needs."""
    line: Any = source._line

    async def change() -> None:
        line._patience = patience
        if line._watching is not None:
            line._watching.cancel()
            line._watching = None

    line._thread.run(change())


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "dd"])
def test_a_silent_host_is_a_dropped_one(
    manners: Manners, opened: Open, access: Access, request: pytest.FixtureRequest, sftp: bool
) -> None:
    if not sftp:
        _without_sftp(request)
    patience = replace(access.patience, tries=2)
    source = opened(patience=patience)
    hurried(source, replace(patience, reading=0.8))
    manners.silent = True
    with pytest.raises(Unreachable):
        source.read(SIZE // 2, 10)


def test_a_slow_host_is_waited_for(manners: Manners, image: Path, opened: Open, access: Access) -> None:
    """Not cut though the whole takes longer than an answer may."""
    manners.delay = 0.15
    for _ in range(10):  # where this machine stands still meanwhile, the host is cut with good reason
        before = manners.connections
        source = opened()
        hurried(source, replace(access.patience, reading=0.8))
        assert source.read(0, 2 << 20) == image.read_bytes()[: 2 << 20]
        if manners.connections - before == 2:  # one without a password, one with
            return
    pytest.fail("it was cut each time")


def test_another_device_after_a_drop_is_noticed(host: Host, image: Path, opened: Open) -> None:
    source = opened()
    host.stop()
    image.write_bytes(image.read_bytes() + bytes(512))
    host.start()
    with pytest.raises(Failed, match=r"had \d+ bytes"):
        source.read(SIZE // 2, 10)


def test_a_device_that_shrinks_gives_no_short_reads(image: Path, opened: Open) -> None:
    source = opened()
    with image.open("r+b") as file:
        file.truncate(2 << 20)
    with pytest.raises(Unreadable, match="nothing is left there"):
        source.read((2 << 20) - 100 + BLOCK * 4, 1000)
    assert len(source.read((2 << 20) - 100, 100)) == 100


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "dd"])
def test_a_bad_sector_costs_only_its_readers(
    manners: Manners, image: Path, opened: Open, request: pytest.FixtureRequest, sftp: bool
) -> None:
    if not sftp:
        _without_sftp(request)
    bad = 24 * BLOCK + 512
    manners.bad = range(bad, bad + 512)
    source, data = opened(), image.read_bytes()
    with pytest.raises(Unreadable) as refused:
        source.read(bad, 100)
    assert (refused.value.details["offset"], refused.value.details["length"]) == (bad, 100)
    assert source.read(bad - 512, 512) == data[bad - 512 : bad]
    assert source.read(bad + 512, 70_000) == data[bad + 512 :][:70_000]


def test_more_than_asked_for_is_refused(manners: Manners, opened: Open, request: pytest.FixtureRequest) -> None:
    _without_sftp(request)
    source = opened()
    manners.too_much = True
    with pytest.raises(Unreadable, match="more than it was asked"):
        source.read(SIZE // 2, 100)


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "dd"])
def test_the_size_comes_from_the_hosts_tools_where_a_file_has_none(
    manners: Manners, opened: Open, request: pytest.FixtureRequest, sftp: bool
) -> None:
    if not sftp:
        _without_sftp(request)
    manners.hidden_sizes = True
    assert opened().size == SIZE


@pytest.mark.parametrize(
    ("command", "answer", "size"),
    [
        ("stat", b"4096\n", 4096),
        ("stat", b"0\n", 0),
        ("stat", b"", 0),
        ("stat", b"-1\n", 0),
        ("stat", b"9" * 400, 0),
        ("stat", b"\xff\xfe", 0),
        ("partedUtil getptbl", b"gpt\n1305 255 63 20971520\n1 2048 4095 X vmfs 0\n", 20971520 * 512),
        ("partedUtil getptbl", b"unknown\n1 2 3\n", 0),
        ("partedUtil getptbl", b"Error: Can't have a partition outside the disk!\n", 0),
    ],
)
def test_sizes_told(command: str, answer: bytes, size: int) -> None:
    assert size_told(command, answer) == size


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "dd"])
def test_no_such_device(opened: Open, request: pytest.FixtureRequest, sftp: bool) -> None:
    if not sftp:
        _without_sftp(request)
    with pytest.raises(NotFound, match=r"naa\.404"):
        opened("naa.404")


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "dd"])
def test_devices_are_listed(host: Host, access: Access, request: pytest.FixtureRequest, sftp: bool) -> None:
    if not sftp:
        _without_sftp(request)
    found = list_devices(parse_address(host.address("")), access)
    assert [(device.name, device.size) for device in found] == [(NAME, SIZE * sftp), (NAME + ":1", SIZE * sftp)]


def test_many_threads(image: Path, opened: Open) -> None:
    source, data = opened(), image.read_bytes()
    wrong: list[int] = []

    def look(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(40):
            offset, length = dice.randrange(SIZE), dice.randrange(200_000)
            if source.read(offset, length) != data[offset : offset + length]:
                wrong.append(offset)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_headers_are_asked_for_at_once(manners: Manners, opened: Open) -> None:
    source = opened()
    source.read(0, 512)
    before = manners.requests
    source.read(1 << 20, 512)
    source.read(2 << 20, 512)
    source.read(SIZE - 512, 512)
    assert {offset for offset, _ in manners.ranges} >= {0, 1 << 20, 2 << 20}
    assert manners.requests - before <= 4  # on their way already, or read


# Who is who.


def test_an_unknown_host_is_refused_with_its_fingerprint(host: Host, opened: Open, manners: Manners) -> None:
    with pytest.raises(Denied) as refused:
        opened(accept_new=False)
    assert refused.value.code == "host_unknown"
    assert fingerprint(refused.value.message) == host.keys[0].get_fingerprint()
    assert "--accept-new" in refused.value.hint
    assert manners.refused_logins == 0


def test_an_accepted_host_is_known_the_next_time(opened: Open, said: list[str], tmp_path: Path) -> None:
    opened()
    opened(accept_new=False)
    assert len([sentence for sentence in said if "accepted" in sentence]) == 1
    assert (tmp_path / "config" / "known_hosts").stat().st_mode & 0o777 == 0o600


def test_a_changed_key_is_refused_always(host: Host, opened: Open) -> None:
    opened()
    host.stop()
    host.keys = [asyncssh.generate_private_key("ssh-ed25519")]
    host.start()
    with pytest.raises(Denied) as refused:
        opened(accept_new=True)
    assert refused.value.code == "host_changed"
    assert "known_hosts" in refused.value.hint


def test_a_key_of_another_kind_is_a_changed_key(host: Host, opened: Open) -> None:
    opened()
    host.stop()
    host.keys = [asyncssh.generate_private_key("ecdsa-sha2-nistp256")]
    host.start()
    with pytest.raises(Denied) as refused:
        opened(accept_new=True)
    assert refused.value.code == "host_changed"
    assert "now it is ecdsa-sha2-nistp256 SHA256:" in str(refused.value)


def test_one_more_kind_of_key_is_no_change(host: Host, opened: Open) -> None:
    opened()
    host.stop()
    host.keys.append(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    host.start()
    opened(accept_new=False)


def test_a_key_that_changes_between_two_connections_is_refused(host: Host, opened: Open) -> None:
    source = opened()
    host.stop()
    host.keys = [asyncssh.generate_private_key("ssh-ed25519")]
    host.start()
    with pytest.raises(Denied, match="not the accepted one"):
        source.read(SIZE // 2, 10)


@pytest.mark.parametrize("keyboard", [False, True], ids=["password", "keyboard-interactive"])
def test_a_wrong_password_is_sent_once(manners: Manners, opened: Open, keyboard: bool) -> None:
    manners.keyboard = keyboard
    with pytest.raises(Denied) as refused:
        opened(passwords=Passwords(ask=lambda who: "wrong-Word"))
    assert refused.value.code == "login_refused"
    assert manners.refused_logins == 1
    assert "wrong-Word" not in str(refused.value.as_dict())


def test_a_password_by_keyboard_interactive(manners: Manners, image: Path, opened: Open) -> None:
    manners.keyboard = True
    check(opened(), image.read_bytes(), reads=3)


def test_a_key_is_enough(manners: Manners, opened: Open, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / ".ssh").mkdir(mode=0o700)
    key.write_private_key(str(tmp_path / ".ssh" / "id_ed25519"))
    manners.keys = key.export_public_key("openssh").decode()

    def never(who: str) -> str:
        raise AssertionError("a password was asked for")

    assert opened(passwords=Passwords(ask=never)).size == SIZE


def test_no_password_and_nobody_to_ask(opened: Open) -> None:
    with pytest.raises(Denied) as refused:
        opened(passwords=Passwords())
    assert refused.value.code == "no_password"
    assert "TRIUNE_ESXI_PASSWORD" in refused.value.hint


def test_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(who: str) -> str:
        asked.append(who)
        return "asked-Word"

    passwords = Passwords(ask=ask)
    assert [passwords.of("root", "h"), passwords.of("root", "h")] == ["asked-Word"] * 2
    assert asked == ["root@h"]
    assert "Word" not in repr(passwords)
    monkeypatch.setenv("TRIUNE_ESXI_PASSWORD", "env-Word")
    assert Passwords(ask=ask).of("root", "h") == "env-Word"
    file = tmp_path / "word"
    file.write_text("file-Word\r\nsomething else\n")
    assert Passwords(file, ask).of("root", "h") == "file-Word"
    for content, error in ((b"\n", "empty"), (b"\xff\n", "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(Invalid, match=error):
            Passwords(file).of("root", "h")
    with pytest.raises(NotFound):
        Passwords(tmp_path / "none").of("root", "h")


def test_nothing_secret_is_written_or_logged(
    opened: Open, tmp_path: Path, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    source = opened(cache=tmp_path / "session")
    source.read(0, SIZE)
    source.close()
    assert PASSWORD not in caplog.text
    assert PASSWORD not in "".join(said)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_known_hosts_take_lines_of_ssh_keyscan(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(
        "# comment\n\n10.0.0.1,esx1 ssh-ed25519 AAAA x\n[esx1]:2222 ssh-rsa BBBB\nbroken\nesx1 ecdsa CCCC"
    )
    known = KnownHosts(tmp_path)
    assert known.keys("esx1", 22) == ["ssh-ed25519 AAAA", "ecdsa CCCC"]
    assert known.keys("esx1", 2222) == ["ssh-rsa BBBB"]
    assert known.keys("esx2", 22) == []
    known.add_key("esx2", 22, "ssh-ed25519 DDDD comment")
    assert known.keys("esx2", 22) == ["ssh-ed25519 DDDD"]
    assert known.keys("esx1", 22) == ["ssh-ed25519 AAAA", "ecdsa CCCC"]
