"""The command line against a daemon: what it prints, how it ends."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import termios
import threading
from pathlib import Path

import pytest
import yaml

from tests.api.house import TRIUNE, Held, House, command
from tests.api.terminal import Terminal
from tests.patience import PATIENCE, until
from triune.domain.errors import (
    Cancelled,
    Conflict,
    Denied,
    Failed,
    Invalid,
    NotFound,
    Stale,
    TriuneError,
    Unreachable,
    Unsupported,
)

KEYS = {
    "name", "engine", "state", "addresses", "image", "origin", "created", "cpus", "memory_bytes", "accelerated", "error"
}  # fmt: skip
MORE = {
    "restarts", "uptime_s", "memory_used_bytes", "disk_used_bytes", "kernel", "isolation", "network", "devices",
    "settings", "command", "limits",
}  # fmt: skip


def text(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_list_in_every_format(house: House) -> None:
    house.launch("web", cpus=2, memory="64MiB")
    house.launch("vm", "kvm")
    house.engine("docker").adopt("old_one", image="nginx")
    rows = json.loads(text(house.run("list", "--format", "json")))
    assert [row["name"] for row in rows] == ["old_one", "vm", "web"]
    assert all(set(row) == KEYS for row in rows)
    assert rows[0]["origin"] == "adopted"
    assert rows[1]["accelerated"] is False
    assert yaml.safe_load(text(house.run("ls", "--format", "yaml")))[1:] == rows[1:]
    assert len(list(csv.DictReader(io.StringIO(text(house.run("ps", "--format=csv")))))) == 3
    assert text(house.run("list", "-q")) == "old_one\nvm\nweb\n"
    assert text(house.run("list", "-q", "--filter", "engine=kvm")) == "vm\n"
    lines = text(house.run("list")).splitlines()
    assert lines[0].split() == ["NAME", "ENGINE", "STATE", "ADDRESS", "IMAGE", "CPUS", "MEMORY", "AGE", "ORIGIN"]
    assert "kvm (emulated)" in lines[2]
    assert not [line for line in lines if line != line.rstrip()]


def test_show_in_json_has_all_keys(house: House) -> None:
    house.launch("web", publish=["8080:80"])
    found = json.loads(text(house.run("show", "web", "--format", "json")))
    assert set(found) == KEYS | MORE
    assert found["network"][0]["published"] == ["8080:80"]
    shown = text(house.run("inspect", "web"))
    assert "Isolation" in shown
    assert "8080:80" in shown


def test_an_empty_list_says_what_to_do(house: House) -> None:
    done = house.run("list")
    assert text(done) == ""
    assert b"triune launch" in done.stderr
    assert text(house.run("list", "--format", "json")) == "[]\n"


def test_unreachable_engines_are_warnings(house: House) -> None:
    house.launch("web")
    house.engine("docker").go_down()
    done = house.run("list", "--format", "json")
    assert [row["name"] for row in json.loads(text(done))] == ["web"]
    assert done.stderr.startswith(b"warning: docker:")
    house.engine("docker").come_up()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Invalid, 2),
        (NotFound, 3),
        (Conflict, 4),
        (Stale, 4),
        (Denied, 5),
        (Unsupported, 6),
        (Unreachable, 7),
        (Cancelled, 1),
        (Failed, 1),
    ],
)
def test_exit_codes_of_what_an_operation_ends_with(house: House, kind: type[TriuneError], code: int) -> None:
    house.engine("lxc").failures["lxc-create"] = kind("some_code", "the disk said no\x1b[2J", hint="ask it again")
    try:
        done = house.run("launch", "debian/12", "web", "--engine", "lxc")
    finally:
        house.engine("lxc").failures.clear()
    assert done.returncode == code
    said = done.stderr.decode()
    assert "error: the disk said no\\x1b[2J" in said
    assert "hint: ask it again" in said
    assert "code: some_code" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "none"), 3),
        (("launch", "debian/12", "Bad_Name"), 2),
        (("launch", "none/such", "web"), 3),
        (("launch", "debian/12", "web", "--memory", "9999GiB"), 2),
        (("launch", "docker:nginx", "web", "--engine", "kvm"), 6),
        (("nonsense",), 2),
        (("rm", "none", "--yes"), 3),
        (("ops", "show", "none"), 3),
        (("network", "show", "none"), 3),
        (("image", "show", "none/such"), 3),
    ],
)
def test_exit_codes_of_what_is_refused_at_once(house: House, arguments: tuple[str, ...], code: int) -> None:
    done = house.run(*arguments)
    assert done.returncode == code, done.stderr
    assert b"hint: " in done.stderr
    assert done.stdout == b""


def test_no_daemon_is_exit_7_with_the_way_to_start_it(tmp_path: Path) -> None:
    env = {**os.environ, "TRIUNE_HOST": str(tmp_path / "none")}
    for arguments in (["list"], ["show", "web"], ["ops", "list"], ["launch", "a/b", "c"]):
        done = command(arguments, env=env)
        assert done.returncode == 7
        assert b"triune serve --detach" in done.stderr
    assert command(["exec", "web", "--", "true"], env=env).returncode == 125
    done = command(["version", "--format", "json"], env=env)
    assert json.loads(text(done))["daemon"] is None


def test_launch_tells_steps_and_the_result(house: House) -> None:
    done = house.run("launch", "debian/12", "web", "--engine", "lxc", "--set", "log=a", "-p", "8080:80")
    assert text(done).startswith("web is running at 10.87.")
    said = done.stderr.decode().splitlines()
    assert said[0] == "web: preparing debian/12"
    assert "web: creating web" in said
    assert said[-1] == "web: waiting until web is ready"
    done = house.run("launch", "docker:nginx", "app", "--engine", "docker", "--env", "A=b c", "-d")
    operation = text(done).strip()
    assert house.client.operations.wait(operation)["state"] == "done"
    done = house.run("ops", "wait", operation)
    assert "launch of app is done" in text(done)
    shown = text(house.run("ops", "show", operation))
    assert "creating app" in shown


def test_start_waits_until_it_is_ready_where_asked(house: House) -> None:
    house.launch("web", start=False)
    assert text(house.run("start", "web")).startswith("web is running (")
    assert text(house.run("start", "web", "--wait", "ready")).startswith("web is ready (")
    house.launch("slow", settings={"ready": "never"}, start=False)
    assert text(house.run("start", "slow")).startswith("slow is running (")
    done = house.run("start", "slow", "--wait", "ready", "--timeout", "0.3s")
    assert (done.returncode, "slow is not ready" in done.stderr.decode()) == (1, True)
    assert house.client.instances.get("slow")["state"] == "running"


def test_user_data_is_read_from_its_file(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = house.triune.instances.launch
    monkeypatch.setattr(
        house.triune.instances, "launch", lambda request: (seen.update(request=request), original(request))[1]
    )
    path = tmp_path / "user-data"
    path.write_text("#cloud-config\nhostname: é\n")
    assert house.run("launch", "debian/12", "web", "--engine", "lxc", "--set", f"user-data={path}").returncode == 0
    assert seen["request"].user_data == "#cloud-config\nhostname: é\n"
    assert seen["request"].spec.settings == {}
    path.write_bytes(b"\xff\xfe")
    done = house.run("launch", "debian/12", "w2", "--set", f"user-data={path}")
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr


def test_several_at_once_report_each_and_end_with_the_worst(house: House) -> None:
    for name in ("a", "b", "c"):
        house.launch(name)
    done = house.run("stop", "a", "b", "none", "c")
    assert done.returncode == 3
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == [b"a", b"b", b"c"]
    assert b"'none'" in done.stderr
    assert house.run("start", "a", "a", "b").returncode == 0
    assert house.run("pause", "a").returncode == 0
    assert house.run("resume", "a").returncode == 0
    assert house.run("rename", "a", "z").returncode == 0
    done = house.run("rm", "z", "b", "c", "--yes")
    assert done.returncode == 4
    assert b"triune rm --force" in done.stderr
    assert house.run("rm", "z", "b", "c", "--yes", "--force").returncode in (0, 3)
    assert text(house.run("list", "-q")) == ""


def test_stop_asks_first_unless_forced(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.launch("web", settings={"stop": "ignored"})
    done = house.run("stop", "web", "--timeout", "200ms")
    assert done.returncode == 1
    assert b"code: stop_timeout" in done.stderr
    assert house.client.instances.get("web")["state"] == "running"
    stop, patience = house.engine("lxc").stop, []
    monkeypatch.setattr(
        house.engine("lxc"), "stop", lambda name, **how: (patience.append(how["timeout"]), stop(name, **how))
    )
    assert house.run("stop", "web", "--force").returncode == 0
    assert patience == [0], "it must not be waited for"


@pytest.mark.parametrize(
    ("argv", "code", "out"),
    [
        (("exec", "web", "--", "sh", "-c", "exit 7"), 7, b""),
        (("exec", "web", "sh", "-c", "echo -n; echo $0 -l"), 0, b"sh -l\n"),
        (("exec", "web", "-e", "A=b c", "--", "sh", "-c", 'echo "$A"'), 0, b"b c\n"),
        (("exec", "-e", "A=1", "web", "--", "sh", "-c", "echo $A; exit 3"), 3, b"1\n"),
        (("exec", "web", "--", "no-such"), 127, b""),
        (("exec", "web", "--", "/etc"), 126, b""),
        (("exec", "none", "--", "true"), 125, b""),
        (("exec", "web", "--", "sh", "-c", "kill -9 $$"), 137, b""),
        (("exec", "web", "--", "echo", "--", "--help"), 0, b"-- --help\n"),
        (("exec", "web"), 2, b""),
    ],
)
def test_exec(house: House, argv: tuple[str, ...], code: int, out: bytes) -> None:
    house.launch("web")
    done = house.run(*argv)
    assert (done.returncode, done.stdout) == (code, out), done.stderr


def test_exec_passes_ten_megabytes_of_binary_unchanged(house: House) -> None:
    house.launch("web")
    data = os.urandom(10 * 2**20)
    done = house.run("exec", "web", "--", "cat", stdin=data)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_exec_ends_when_nobody_reads_it_or_it_is_interrupted(house: House) -> None:
    house.launch("web")
    argv = [str(TRIUNE), "exec", "-n", "web", "--", "sh", "-c", "while :; do echo x; done"]
    with subprocess.Popen(argv, env=house.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
    until(lambda: not house.streams)
    sleeping = [str(TRIUNE), "exec", "-n", "web", "--", "sleep", "60"]
    with subprocess.Popen(sleeping, env=house.env, stderr=subprocess.PIPE) as process:
        until(lambda: house.streams)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def test_a_list_into_a_closed_pipe_is_quiet(house: House) -> None:
    house.launch("web")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([str(TRIUNE), "list"], env=house.env, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


def test_a_shell_on_a_terminal(house: House) -> None:
    house.launch("web")
    terminal = Terminal(house, "shell", "web")
    terminal.type(b"stty size\n")
    terminal.expect(b"30 100")
    termios.tcsetwinsize(terminal.master, (40, 120))
    os.kill(terminal.process.pid, signal.SIGWINCH)
    terminal.shows(b"stty size\n", b"40 120")
    terminal.type(b"exit 9\n")
    assert terminal.end() == 9


def test_a_console_is_left_by_its_key(house: House) -> None:
    house.launch("vm", "kvm")
    terminal = Terminal(house, "console", "vm")
    terminal.expect(b"vm console")
    terminal.type(b"abc")
    terminal.expect(b"abc")
    terminal.type(b"\x1d")
    terminal.expect(b"left the console")
    assert terminal.end() == 0


def test_control_characters_of_guests_do_not_reach_the_terminal(house: House) -> None:
    house.launch("web", settings={"log": "evil \\x1b"})
    house.engine("lxc")._instances["web"].log.append("\x1b]0;owned\x07\tx\r")
    terminal = Terminal(house, "logs", "web")
    terminal.expect(b"\\x1b]0;owned\\x07")
    terminal.end()
    assert b"\x1b" not in terminal.said
    house.engine("docker").adopt("evil\x1b[2Jname", image="\x1b[31mred")
    for arguments in (
        ("list",),
        ("list", "-q"),
        ("list", "--format", "csv"),
        ("events",),
        ("list", "--format", "json"),
    ):
        done = house.run(*arguments)
        assert b"\x1b" not in done.stdout + done.stderr
        assert b"evil" in done.stdout
    assert b"\x1b" in house.run("logs", "web").stdout, "redirected, bytes are bytes"


def complete(house: House, words: str) -> set[str]:
    env = {**house.env, "_TRIUNE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([str(TRIUNE)], env=env, capture_output=True, check=False)
    return {line.split(",", 1)[1] for line in done.stdout.decode().splitlines()}


def test_completion(house: House) -> None:
    house.launch("web")
    house.launch("web2", "kvm")
    house.engine("docker").adopt("we$(reboot)")
    assert {"list", "launch"} <= complete(house, "triune l")
    assert complete(house, "triune stop we") == {"web", "web2"}
    assert complete(house, "triune stop web ") == {"web2"}
    assert complete(house, "triune launch deb") == {"debian/12"}
    assert complete(house, "triune launch debian/12 x --engine k") == {"kvm"}
    assert "triune0" in complete(house, "triune network show ")
    assert complete(house, "triune image ") >= {"build", "pull", "import"}
    house.engine("lxc").go_down()
    assert complete(house, "triune stop web2") == {"web2"}
    house.engine("lxc").come_up()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = command(["completion", shell], env={**os.environ})
    assert b"_TRIUNE_COMPLETE" in done.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, check=False).returncode == 0


def test_completion_without_a_daemon_is_silent(tmp_path: Path) -> None:
    env = {**os.environ, "TRIUNE_HOST": str(tmp_path / "none"), "_TRIUNE_COMPLETE": "bash_complete"}
    done = command([], env={**env, "COMP_WORDS": "triune stop ", "COMP_CWORD": "2"})
    assert (done.stdout.strip(), done.stderr) == (b"", b"")


def test_images_networks_events_stats(house: House, tmp_path: Path) -> None:
    assert b"docker:nginx:9 is pulled" in house.run("image", "pull", "docker:nginx:9").stdout
    done = house.run("image", "pull", "docker:private/x", "--username", "u", "--password-stdin", stdin=b"s3cret\n")
    assert done.returncode == 0, done.stderr
    assert house.run("image", "pull", "docker:private/y").returncode == 5
    assert house.run("image", "pull", "docker:private/y", "--username", "u").returncode == 2
    assert house.run("image", "rm", "docker:nginx:9", "-y").returncode == 0
    assert b"debian/12" in house.run("image", "show", "debian/12").stdout
    assert house.run("network", "create", "lab", "--subnet", "10.99.0.0/16").returncode == 0
    assert "lab" in text(house.run("network", "list", "-q")).split()
    assert house.run("network", "rm", "lab", "-y").returncode == 0
    house.launch("web")
    assert "instance.started" in text(house.run("events", "--type", "instance."))
    assert "launch" in text(house.run("ops", "list", "--limit", "1"))


def test_events_follow(house: House) -> None:
    argv = [str(TRIUNE), "events", "-f", "--type", "instance.", "--format", "json"]
    with subprocess.Popen(argv, env=house.env, stdout=subprocess.PIPE) as process:
        until(lambda: house.streams)
        house.launch("web")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "instance.created"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def test_quiet_says_nothing_but_errors(house: House) -> None:
    for arguments in (
        ["launch", "-q", "debian/12", "web", "--engine", "lxc"],
        ["stop", "-q", "web", "--force"],
        ["start", "-q", "web"],
        ["network", "create", "-q", "lab"],
        ["network", "rm", "-q", "--yes", "lab"],
        ["rm", "-q", "--force", "--yes", "web"],
    ):
        done = house.run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), arguments
    wrong = house.run("start", "-q", "nobody")
    assert (wrong.returncode, wrong.stdout) == (3, b"")
    assert wrong.stderr.startswith(b"error: ")


def interrupted(house: House, held: Held, argv: list[str]) -> bytes:
    """What a launch says when Ctrl-C comes while a call of its operation is under way."""
    with subprocess.Popen([str(TRIUNE), *argv], env=house.env, stderr=subprocess.PIPE) as process:
        assert held.begun.wait(PATIENCE)
        until(lambda: house.streams)  # it follows the operation
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        return process.stderr.read()


def test_an_interrupted_launch_is_cancelled(house: House) -> None:
    with house.held(house.engine("lxc"), "create") as creation:
        assert b"cancelled" in interrupted(house, creation, ["launch", "debian/12", "web", "--engine", "lxc"])
        operation = house.triune.operations.list(limit=1)[0]
        assert house.client.operations.wait(operation.id)["state"] == "cancelled"
    assert text(house.run("list", "-q")) == ""


def test_an_interrupted_launch_that_only_waits_says_that_it_goes_on(house: House) -> None:
    with house.held(house.engine("lxc"), "wait_ready") as waiting:
        said = interrupted(house, waiting, ["launch", "debian/12", "web", "--engine", "lxc"])
        assert b"it goes on in the daemon: triune ops show " in said
    assert text(house.run("list", "-q")) == "web\n"


def test_an_interrupted_stop_goes_on_in_the_daemon(house: House) -> None:
    house.launch("web", settings={"stop": "ignored"})
    argv = [str(TRIUNE), "stop", "web", "--timeout", "3", "--force"]
    with (
        house.held(house.engine("lxc"), "stop") as stopping,
        subprocess.Popen(argv, env=house.env, stderr=subprocess.PIPE) as process,
    ):
        assert stopping.begun.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        operation = house.triune.operations.list(running=True)[0]  # which the command did not wait for
        assert process.stderr is not None
        assert b"goes on in the daemon" in process.stderr.read()
    assert house.client.operations.wait(operation.id)["state"] == "done"


def test_nothing_waits_for_ever_for_a_daemon_that_goes_away(house: House, tmp_path: Path) -> None:
    other = House(tmp_path)
    other.launch("web")
    results: list[subprocess.CompletedProcess[bytes]] = []
    thread = threading.Thread(target=lambda: results.append(other.run("exec", "-n", "web", "--", "sleep", "100000")))
    thread.start()
    until(lambda: other.streams)
    other.close()
    thread.join(PATIENCE)
    assert results[0].returncode == 125
