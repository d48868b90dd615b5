"""Commands, terminals, console and logs of real system containers."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live.lxc_fixtures import LXC_PATH, Lab, drain, eventually, lab, terminal, tree
from tests.patience import PATIENCE, Awake
from triune.domain.errors import Conflict, Invalid, NotFound
from triune.domain.operation import Silent
from triune.engines.base import Command

__all__ = ["lab", "tree"]
pytestmark = [pytest.mark.live, pytest.mark.lxc]


@pytest.fixture(scope="module")
def name(lab: Lab) -> Iterator[str]:
    made = lab.launch("exec", env={"LAUNCHED": "with this"})
    lab.exec(made, "useradd", "-m", "-u", "1234", "-s", "/bin/bash", "ann")
    yield made
    lab.engine.delete(made)


def running_inside(lab: Lab, name: str, mark: str) -> bool:
    """Whether a process with this word in its arguments is there."""
    out = lab.exec(name, "sh", "-c", 'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done')[1].decode()
    return any(mark in line and "cmdline" not in line for line in out.splitlines())


def test_exit_codes(lab: Lab, name: str) -> None:
    assert lab.exec(name, "sh", "-c", "exit 7")[0] == 7
    assert lab.exec(name, "sh", "-c", "kill -9 $$")[0] == 137
    assert lab.exec(name, "/nowhere")[0] == 127
    assert lab.exec(name, "/etc/passwd")[0] == 126
    assert lab.exec(name, "nowhere", cwd="/tmp")[0] == 127
    assert lab.exec(name, "true", cwd="/nowhere")[0] == 126


def test_what_goes_in_does_not_make_a_copy_of_itself(lab: Lab, name: str) -> None:
    """It fails at that, at times (`host.sealed`)."""
    assert lab.engine.commands is not None
    mark = b"-n\0" + name.encode() + b"\0"
    sessions = [lab.engine.commands.open(name, Command(argv=("sleep", "61234"))) for _ in range(2)]

    def programs() -> list[os.stat_result]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = (folder / "cmdline").read_bytes()
                if mark in ours and b"61234" in ours and "memfd:" in str((folder / "exe").readlink()):
                    found.append((folder / "exe").stat())
        return found

    try:
        eventually(lambda: len(programs()) >= 2)
        assert len({info.st_ino for info in programs()}) == 1
    finally:
        for session in sessions:
            session.close()


def test_output_is_split_and_arguments_arrive_as_given(lab: Lab, name: str) -> None:
    assert lab.exec(name, "sh", "-c", "echo out; echo err >&2") == (0, b"out\n", b"err\n")
    hostile = ("a b", "$HOME", "'\"", "line\nbreak", "-n", "", "ünï")
    assert lab.exec(name, "printf", "%s|", *hostile)[1].decode() == "".join(f"{word}|" for word in hostile)
    assert lab.exec(name, "printf", "%s|", *hostile, cwd="/tmp")[1].decode() == "".join(f"{w}|" for w in hostile)


def test_environment_user_and_folder(lab: Lab, name: str) -> None:
    code, out, _ = lab.exec(name, "env", env={"SECRET": "x=y\nz", "LD_LIBRARY_PATH": "/nowhere"})
    seen = out.decode()
    assert code == 0
    assert "SECRET=x=y\nz\n" in seen and "LD_LIBRARY_PATH=/nowhere\n" in seen and "LAUNCHED=with this\n" in seen
    assert "HOME=/root\n" in seen and "PYTEST_CURRENT_TEST" not in seen
    assert lab.exec(name, "id", "-u", user="ann")[1] == b"1234\n"
    assert lab.exec(name, "sh", "-c", "id -u; id -g; pwd", user="1234:0", cwd="/tmp")[1] == b"1234\n0\n/tmp\n"
    with pytest.raises(Invalid):
        lab.exec(name, "true", user="nobody-there")
    with pytest.raises(NotFound):
        lab.exec("tlxc-nowhere", "true")


def test_no_variable_is_seen_in_the_hosts_process_list(lab: Lab, name: str) -> None:
    assert lab.engine.commands
    session = lab.engine.commands.open(name, Command(argv=("sleep", "5"), env={"TOKEN": "tlxc-very-secret"}))
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes())
    session.close()
    assert not any(b"tlxc-very-secret" in line for line in lines)


def test_ten_megabytes_both_ways(lab: Lab, name: str) -> None:
    assert lab.engine.commands
    data = os.urandom(10_000_000)
    session = lab.engine.commands.open(name, Command(argv=("cat",)))

    def feed() -> None:
        session.write(data)
        session.close_stdin()

    writer = threading.Thread(target=feed)
    writer.start()
    out = drain(session)
    writer.join()
    assert session.wait() == 0
    session.close()
    assert hashlib.sha256(out[1]).digest() == hashlib.sha256(data).digest()


def test_closed_stdin_is_end_of_file(lab: Lab, name: str) -> None:
    assert lab.exec(name, "sh", "-c", "cat; echo after", stdin=b"given ")[1] == b"given after\n"


def test_a_command_that_does_not_read_can_be_closed_while_written_to(lab: Lab, name: str) -> None:
    assert lab.engine.commands
    session = lab.engine.commands.open(name, Command(argv=("sleep", "100000")))
    writer = threading.Thread(target=session.write, args=(b"x" * 10_000_000,))
    writer.start()
    time.sleep(0.2)
    session.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()


def test_output_ends_with_the_command_though_its_children_go_on(lab: Lab, name: str) -> None:
    with Awake() as awake:
        code, out, _ = lab.exec(name, "sh", "-c", "sleep 30 & echo done")
    assert (code, out) == (0, b"done\n") and awake.seconds < 5


def test_terminal(lab: Lab, name: str) -> None:
    assert lab.engine.commands
    session = lab.engine.commands.open(name, Command(argv=("sh",), terminal=terminal()))
    session.write(b"stty size; tty; echo $TERM\n")
    seen = b""
    while b"xterm" not in seen:
        chunk = session.read()
        assert chunk and chunk[0] == 1
        seen += chunk[1]
    assert b"25 81" in seen and b"/dev/pts/" in seen
    session.resize(100, 40)
    time.sleep(0.2)
    session.write(b"stty size; exit 3\n")
    assert b"40 100" in drain(session)[1]
    assert session.wait() == 3
    session.close()


def test_login_shell_and_binary_keys(lab: Lab, name: str) -> None:
    assert lab.engine.commands
    session = lab.engine.commands.open(name, Command(argv=(), user="ann", terminal=terminal()))
    session.write(b"pwd; echo $0; exit\n")
    assert b"/home/ann" in drain(session)[1]
    session.close()
    session = lab.engine.commands.open(
        name, Command(argv=("sh", "-c", "stty raw -echo; echo go; head -c 4 | od -An -tx1"), terminal=terminal())
    )
    seen = b""
    while b"go" not in seen:
        seen += (session.read() or (1, b""))[1]
    session.write(b"\x01q\x03\x1d")
    assert b"01 71 03 1d" in drain(session)[1]
    session.close()


@pytest.mark.parametrize("with_terminal", [False, True])
@pytest.mark.parametrize("stubborn", [False, True])
def test_closing_kills_the_command_and_its_children(lab: Lab, name: str, with_terminal: bool, stubborn: bool) -> None:
    assert lab.engine.commands
    mark = f"87{int(with_terminal)}{int(stubborn)}6"
    trap = "trap '' HUP TERM INT;" if stubborn else ""
    command = Command(
        argv=("sh", "-c", f"{trap} sleep {mark}; sleep {mark}"), terminal=terminal() if with_terminal else None
    )
    session = lab.engine.commands.open(name, command)
    assert eventually(lambda: running_inside(lab, name, f"sleep {mark}"))
    reader = threading.Thread(target=drain, args=(session,))
    reader.start()
    with Awake() as awake:
        session.close()
        reader.join(PATIENCE)
    assert not reader.is_alive() and awake.seconds < 4
    assert eventually(lambda: not running_inside(lab, name, f"sleep {mark}"), 3)
    session.close()


def test_a_session_closed_at_once_leaves_nothing(lab: Lab, name: str) -> None:
    assert lab.engine.commands
    for _ in range(5):
        lab.engine.commands.open(name, Command(argv=("sleep", "8765"))).close()
    assert eventually(lambda: not running_inside(lab, name, "sleep 8765"), 3)


def test_sessions_leave_no_descriptors(lab: Lab, name: str) -> None:
    lab.exec(name, "true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        lab.exec(name, "true")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_container_stopped_under_a_session(lab: Lab) -> None:
    assert lab.engine.commands
    name = lab.launch("under")
    session = lab.engine.commands.open(name, Command(argv=("sh", "-c", "echo up; sleep 100")))
    assert session.read() == (1, b"up\n")
    lab.engine.stop(name, timeout=0, force=True, progress=Silent())
    drain(session)
    assert session.wait() == 137
    session.close()
    with pytest.raises(Conflict):
        lab.engine.commands.open(name, Command(argv=("true",)))
    lab.engine.delete(name)


def test_console(lab: Lab, name: str) -> None:
    assert lab.engine.console
    session = lab.engine.console.open(name, terminal())
    seen = b""
    deadline = time.monotonic() + PATIENCE
    session.write(b"\n")
    while b"login:" not in seen and time.monotonic() < deadline:
        seen += (session.read() or (1, b""))[1]
    assert b"login:" in seen and b"Ctrl" not in seen
    session.close()
    again = lab.engine.console.open(name, terminal())
    again.write(b"\n")
    assert again.read()
    again.close()
    assert lab.exec(name, "true")[0] == 0


def test_logs(lab: Lab, name: str) -> None:
    assert lab.engine.logs
    text = b"".join(lab.engine.logs.read(name, tail=None, follow=False, stop=lambda: False))
    assert b"Multi-User System" in text
    last = b"".join(lab.engine.logs.read(name, tail=2, follow=False, stop=lambda: False))
    assert text.endswith(last) and last.rstrip(b"\n").count(b"\n") <= 1
    ended = threading.Event()
    heard: list[bytes] = []

    def follow() -> None:
        assert lab.engine.logs
        heard.extend(lab.engine.logs.read(name, tail=0, follow=True, stop=ended.is_set))

    reader = threading.Thread(target=follow)
    reader.start()
    time.sleep(0.3)
    lab.exec(name, "sh", "-c", "echo tlxc-said-this > /dev/console")
    assert eventually(lambda: b"tlxc-said-this" in b"".join(heard), 60)
    ended.set()
    reader.join(PATIENCE)
    assert not reader.is_alive()


def test_logs_fall_back_to_the_journal(lab: Lab, name: str) -> None:
    assert lab.engine.logs
    log = LXC_PATH / name / "console.log"
    kept = log.rename(log.with_name("kept.log"))
    try:
        text = b"".join(lab.engine.logs.read(name, tail=5, follow=False, stop=lambda: False))
        assert b"systemd" in text
    finally:
        kept.rename(log)
