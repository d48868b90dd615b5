"""Commands, console, logs and figures of a running virtual machine."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.live.bad_world import until
from tests.live.kvm_fixtures import Lab, guest, kvm_form, lab, run  # noqa: F401 - fixtures
from triune.domain.errors import Conflict
from triune.engines.base import Command, Terminal

pytestmark = [pytest.mark.live, pytest.mark.kvm]


def test_exit_code_streams_and_inherited_environment(lab: Lab, guest: str) -> None:  # noqa: F811
    script = "echo out; echo err >&2; echo $TRIUNE_TEST; exit 7"
    assert run(lab, guest, "sh", "-c", script) == (7, b"out\ninherited\n", b"err\n")


def test_ten_megabytes_through_stdin_and_stdout(lab: Lab, guest: str) -> None:  # noqa: F811
    data = os.urandom(10 * 10**6)
    code, out, err = run(lab, guest, "cat", stdin=data)
    assert (code, err) == (0, b"")
    assert out == data


def test_shells_codes(lab: Lab, guest: str) -> None:  # noqa: F811
    assert run(lab, guest, "no-such-program")[0] == 127
    assert run(lab, guest, "/etc/passwd")[0] == 126
    assert run(lab, guest, "sh", "-c", "kill -9 $$")[0] == 137


def test_terminal(lab: Lab, guest: str) -> None:  # noqa: F811
    code, out, _ = run(lab, guest, "sh", "-c", "tty; stty size", terminal=Terminal(columns=100, rows=30))
    assert code == 0
    assert out.startswith(b"/dev/pts/")
    assert b"30 100" in out


def test_four_at_once_and_the_fifth_is_told(lab: Lab, guest: str) -> None:  # noqa: F811
    sessions = [lab.engine.commands.open(guest, Command(argv=("sleep", "300"))) for _ in range(4)]
    try:
        with pytest.raises(Conflict) as caught:
            lab.engine.commands.open(guest, Command(argv=("true",)))
        assert caught.value.code == "exec_ports_busy"
    finally:
        for session in sessions:
            session.close()


def test_closing_kills_the_command_and_frees_the_port(lab: Lab, guest: str) -> None:  # noqa: F811
    session = lab.engine.commands.open(guest, Command(argv=("sleep", "98765")))
    session.close()
    assert session.read() is None
    for _ in range(50):
        if run(lab, guest, "sh", "-c", "grep -l 9876[5] /proc/[0-9]*/cmdline")[1] == b"":
            return
        time.sleep(0.2)
    pytest.fail("the command outlived its session")


def test_console(lab: Lab, guest: str) -> None:  # noqa: F811
    session = lab.engine.console.open(guest, Terminal())
    timer = threading.Timer(30, session.close)
    timer.start()
    session.write(b"\r")
    text = b""
    while b"login:" not in text and (got := session.read()) is not None:
        text += got[1]
    timer.cancel()
    with pytest.raises(Conflict):
        lab.engine.console.open(guest, Terminal())
    session.close()
    assert b"login:" in text
    assert session.read() is None


def test_logs(lab: Lab, guest: str) -> None:  # noqa: F811
    everything = b"".join(lab.engine.logs.read(guest, tail=None, follow=False, stop=lambda: False))
    assert b"Linux version" in everything
    last = b"".join(lab.engine.logs.read(guest, tail=2, follow=False, stop=lambda: False))
    assert everything.endswith(last)
    assert 0 < len(last) < len(everything)
    run(lab, guest, "sh", "-c", "echo followed-this > /dev/ttyS0")
    stop = threading.Event()
    threading.Timer(20, stop.set).start()
    for chunk in lab.engine.logs.read(guest, tail=1, follow=True, stop=stop.is_set):
        if b"followed-this" in chunk:
            stop.set()
            return
    pytest.fail("the line was not followed")


def test_figures(lab: Lab, guest: str) -> None:  # noqa: F811
    # The host may have taken back what an idle guest does not touch.
    assert run(lab, guest, "sh", "-c", "head -c 64M /dev/urandom > /dev/shm/fill")[0] == 0
    detail = lab.engine.get(guest)
    assert detail.kernel.endswith("-amd64")
    assert detail.uptime_s > 0
    assert detail.memory_used_bytes > 64 * 2**20
    assert detail.disk_used_bytes > 0
    assert detail.isolation["kernel"] == "own"
    assert detail.isolation["qemu_user"]
    stats = lab.engine.stats()[guest]
    assert stats.cpu_time_s > 0
    assert stats.disk_read_bytes > 0
    # The guest tells of its memory every ten seconds.
    until(lambda: lab.engine.stats()[guest].memory_bytes > 64 * 2**20, within=60)
    assert run(lab, guest, "rm", "/dev/shm/fill")[0] == 0


def test_identity_is_the_instances_own(lab: Lab, guest: str) -> None:  # noqa: F811
    assert run(lab, guest, "hostname")[1].decode().strip() == guest
    uuid = lab.client.domain(guest).UUIDString().replace("-", "")
    assert run(lab, guest, "cat", "/etc/machine-id")[1].decode().strip() == uuid


def test_pause_and_resume(lab: Lab, guest: str) -> None:  # noqa: F811
    lab.engine.pausing.pause(guest)
    lab.engine.pausing.pause(guest)
    assert lab.row(guest).state == "paused"
    lab.engine.pausing.resume(guest)
    assert lab.row(guest).state == "running"
    assert run(lab, guest, "true")[0] == 0
