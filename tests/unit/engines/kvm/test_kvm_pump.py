"""The pump and its session, run on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.patience import PATIENCE, until
from tests.unit.engines.kvm.pump_rig import Rig, run

from triune.domain.errors import Invalid
from triune.engines.base import Command, Terminal
from triune.engines.kvm.pump import orders

pytestmark = [
    pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the pump runs as root, as in a guest"),
]


def sh(script: str, **more: object) -> Command:
    return Command(argv=("sh", "-c", script), **more)


def test_ten_megabytes_of_anything_come_back_unchanged() -> None:
    data = os.urandom(10 * 10**6)
    code, out, err = run(Command(argv=("cat",)), data)
    assert (code, err) == (0, b"")
    assert out == data


def test_stdout_and_stderr_stay_apart() -> None:
    assert run(sh("echo out; echo err >&2; exit 7")) == (7, b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Command(argv=("true",)), 0),
        (sh("kill -9 $$"), 137),
        (sh("kill -TERM $$"), 143),
        (Command(argv=("no-such-program",)), 127),
        (Command(argv=("/etc/passwd",)), 126),
        (Command(argv=("true",), user="no-such-user"), 126),
        (Command(argv=("true",), cwd="/no/such/folder"), 126),
    ],
)
def test_exit_codes_are_a_shells(command: Command, code: int) -> None:
    assert run(command)[0] == code


def test_user_folder_and_environment() -> None:
    command = sh("id -un; pwd; echo $A; echo $HOME", user="nobody", cwd="/tmp", env={"A": "b=c d"})
    assert run(command)[1].splitlines()[:3] == [b"nobody", b"/tmp", b"b=c d"]


def test_arguments_arrive_as_they_are() -> None:
    words = ("printf", "%s|", "a\nb", "*", "$HOME", "", "'\"\\", "é")
    assert run(Command(argv=words))[1].decode() == "a\nb|*|$HOME||'\"\\|é|"


def test_a_command_that_does_not_read_does_not_block_its_writer() -> None:
    assert run(Command(argv=("true",)), b"x" * 3_000_000)[0] == 0


def test_output_that_waits_for_a_slow_host_is_not_lost(tmp_path: Path) -> None:
    """The command has ended, and the last of what it wrote lies in its pipe for as long as the host reads nothing."""
    rig = Rig(sh(f"echo ready; read line; head -c 330000 /dev/zero; echo > {tmp_path}/ended"))
    assert rig.session.read() == (1, b"ready\n")
    rig.slow.set()
    rig.session.write(b"\n")
    until((tmp_path / "ended").exists)
    time.sleep(3)
    rig.slow.clear()
    size = 0
    while (got := rig.session.read()) is not None:
        size += len(got[1])
    assert size == 330_000
    rig.finish()


def test_a_child_that_keeps_the_output_open_is_not_waited_for() -> None:
    assert run(sh("echo out; sleep 20 & exit 3"))[:2] == (3, b"out\n")


def test_a_terminal_has_its_size_and_gets_resized() -> None:
    rig = Rig(sh("stty size; read line; stty size", terminal=Terminal(columns=100, rows=30)))
    text = b""
    while b"30 100" not in text:
        text += rig.session.read()[1]
    rig.session.resize(120, 40)
    rig.session.write(b"\n")
    while (got := rig.session.read()) is not None:
        text += got[1]
    assert b"40 120" in text
    assert rig.session.wait() == 0
    rig.finish()


def test_control_c_reaches_the_foreground_of_a_terminal() -> None:
    rig = Rig(sh("echo ready; exec sleep 60", terminal=Terminal()))
    text = b""
    while b"ready" not in text:
        text += rig.session.read()[1]
    time.sleep(0.2)
    rig.session.write(b"\x03")
    while rig.session.read() is not None:
        pass
    assert rig.session.wait() == 128 + signal.SIGINT
    rig.finish()


def test_an_empty_command_is_the_login_shell() -> None:
    rig = Rig(Command(argv=(), terminal=Terminal()))
    rig.session.write(b"exit 9\n")
    while rig.session.read() is not None:
        pass
    assert rig.session.wait() == 9
    rig.finish()


def test_a_host_that_goes_away_kills_the_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    rig = Rig(sh(f"trap '' HUP; echo $$ > {pids}; sleep 300 & echo $! >> {pids}; echo ready; wait"))
    assert rig.session.read() == (1, b"ready\n")
    rig.cut()
    assert rig.process.wait(PATIENCE) == 0
    for pid in pids.read_text().split():
        until(lambda pid=pid: _gone(int(pid)))
    rig.finish()


def test_close_from_another_thread_ends_a_blocked_read() -> None:
    rig = Rig(Command(argv=("sleep", "300")))
    threading.Timer(0.3, rig.session.close).start()
    assert rig.session.read() is None
    assert rig.session.wait() == 255
    assert rig.released.is_set()
    rig.finish()


def test_a_pump_that_dies_ends_the_session() -> None:
    rig = Rig(Command(argv=("sleep", "60")))
    time.sleep(0.2)
    rig.process.kill()
    rig.process.wait(PATIENCE)
    assert rig.session.read() is None
    assert rig.session.wait() == 255
    rig.finish()


def test_what_was_in_the_line_before_is_dropped() -> None:
    rig = Rig(Command(argv=("echo", "ok")), stale=b"X\0\0\0\4junk" * 50)
    assert rig.session.read() == (1, b"ok\n")
    rig.finish()


def test_a_signal_reaches_the_command() -> None:
    rig = Rig(sh("trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"))
    assert rig.session.read() == (1, b"ready\n")
    rig.session.signal(signal.SIGUSR1)
    while rig.session.read() is not None:
        pass
    assert rig.session.wait() == 5
    rig.finish()


@pytest.mark.parametrize("word", ["a\0b", "x" * 200_000])
def test_what_no_execve_takes_is_refused(word: str) -> None:
    with pytest.raises(Invalid) as caught:
        orders(Command(argv=(word,)), {})
    assert caught.value.code == "bad_argument"


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
