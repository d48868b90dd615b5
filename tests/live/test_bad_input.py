"""Bad input through the real command line, and the JSON that others rely on, on the real engines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from tests.live.bad_world import (
    BRIDGE,
    DOCKER,
    PARAMS,
    PREFIX,
    assert_error,
    begin,
    hosts,
    out,
    own_daemon,
    refused,
    resident,
    until,
)
from tests.live.daemon import TRIUNE, Daemon
from tests.live.system_fixtures import ENGINES, IMAGE, built_image
from tests.patience import PATIENCE, Awake

pytestmark = [pytest.mark.live, pytest.mark.net]

NAMES = {engine: f"{PREFIX}{engine}" for engine in ENGINES}
LIMITS = ("--cpus", "1", "--memory", "256MiB")
STUBBORN = {
    # docker gets its own: what ignores signals there is its main process
    "lxc": "systemctl mask halt.target poweroff.target reboot.target",
    "kvm": "systemctl stop systemd-logind dbus.socket dbus; systemctl mask poweroff.target halt.target; "
    "systemd-run --on-active=0.5 systemctl stop qemu-guest-agent",
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One instance of each engine runs, limited to one CPU and 256 MiB."""
    with own_daemon() as daemon:
        built_image(daemon)
        daemon.remove_all(PREFIX)
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda engine: daemon.launch(IMAGE, NAMES[engine], engine, *LIMITS), ENGINES))
            yield daemon
        finally:
            daemon.remove_all(PREFIX)
        daemon.stop()


def launch(*options: str, name: str = f"{PREFIX}x", image: str = IMAGE) -> tuple[str, ...]:
    return ("launch", image, name, *options)


@pytest.mark.parametrize(
    ("argv", "exit_code", "code", "says"),
    [
        (launch(name="Tbad"), 2, "bad_name", "'Tbad'"),
        (launch(name="tbad-"), 2, "bad_name", "63"),
        (launch(name="tbad-\nx"), 2, "bad_name", "tbad-"),
        (launch(name="a" * 64), 2, "bad_name", "63"),
        (launch("--memory", "10Zi"), 2, "bad_size", "512MiB"),
        (launch("--memory", "256MiB\n"), 0, "", ""),
        (launch("--memory", "0"), 2, "memory_too_small", "4 MiB"),
        (launch("--memory", "900TiB"), 2, "memory_exceeds_host", "this host has"),
        (launch("--cpus", "nan"), 2, "bad_cpus", "1.5"),
        (launch("--cpus", "4096"), 2, "cpus_exceed_host", "CPUs"),
        (launch("--disk", "1"), 2, "disk_too_small", "1 MiB"),
        (launch("--disk", "90000TiB", "--engine", "kvm"), 2, "disk_too_large", "at most"),
        (launch("--publish", "80"), 2, "bad_publish", "8080:80"),
        (launch("--publish", "0:80"), 2, "bad_publish", "65535"),
        (launch("--publish", "80:80/icmp"), 2, "bad_publish", "icmp"),
        (launch("--publish", "80:80\n"), 2, "bad_publish", "8080:80"),
        (launch("-p", "18960:80", "-p", "18960:81"), 2, "bad_publish", "twice"),
        (launch("-p", "18960:80", "-p", "127.0.0.1:18960:81"), 2, "duplicate_port", "18960"),
        (launch("-p", "192.0.2.1:18960:80"), 2, "address_not_here", "192.0.2.1"),
        (launch("-p", "18960:80", "--network", "none"), 2, "publish_without_network", "no network"),
        (launch("--network", BRIDGE[:-1] + "7"), 3, "network_not_found", f"Did you mean '{BRIDGE}'"),
        (launch("--network", "a\nb"), 3, "network_not_found", "a\\nb"),
        (launch("--engine", "kmv"), 2, "unknown_engine", "Did you mean 'kvm'"),
        (launch("--engine", "lxc\n"), 2, "unknown_engine", "Did you mean 'lxc'"),
        (launch("--volume", "/tmp"), 2, "bad_volume", ":ro"),
        (launch("--volume", "/tmp:srv"), 2, "bad_volume", "absolute"),
        (launch("--volume", "/no/such folder:/srv"), 2, "volume_missing", "mkdir -p '/no/such folder'"),
        (launch("--env", "A B=1"), 2, "bad_env", "NAME=VALUE"),
        (launch("--env", "A"), 2, "bad_option", "KEY=VALUE"),
        (launch(image="debain/12"), 3, "image_not_found", "debian/12"),
        (launch(image="debian/12\n"), 2, "bad_image_name", "family/version"),
        (launch("--engine", "lxc", image="docker:nothing"), 6, "no_form", "--engine docker"),
        (launch("--engine", "kvm", image="docker:nothing"), 6, "no_form", "--engine docker"),
        (("start", "tbad-dockr"), 3, "instance_not_found", "tbad-docker"),
        (("rename", "tbad-lxc", "tbad_x"), 2, "bad_name", "tbad_x"),
        (("rename", "tbad-lxc", "tbad-kvm"), 4, "instance_exists", "kvm"),
        (("rm", "--yes", "tbad-lxc"), 4, "instance_running", "--force"),
        (("rm", "tbad-lxc"), 2, "confirmation_needed", "--yes"),
        (("exec", "tbad-lx", "--", "true"), 125, "instance_not_found", "tbad-lxc"),
    ],
)
def test_what_is_wrong_is_refused_with_a_sentence_and_a_next_step(
    daemon: Daemon, argv: tuple[str, ...], exit_code: int, code: str, says: str
) -> None:
    if not code:  # white space around a size is no harm
        daemon.run(*argv, "--no-start", "--engine", "lxc")
        daemon.run("rm", "--yes", f"{PREFIX}x")
        return
    said = refused(daemon, exit_code, code, *argv)
    assert says in said
    assert f"{PREFIX}x" not in daemon.names()


def test_words_of_the_command_line_that_do_not_exist_have_a_nearest_one(daemon: Daemon) -> None:
    for argv, near in ((("lanch",), "launch"), (("launch", "--memroy", "1", IMAGE, "x"), "--memory")):
        done = daemon.run(*argv, check=False)
        assert done.returncode == 2
        assert f"Did you mean '{near}'" in done.stderr.decode()


@pytest.mark.parametrize("engine", PARAMS)
def test_every_engine_refuses_alike(daemon: Daemon, engine: str) -> None:
    for other in NAMES.values():
        refused(daemon, 4, "instance_exists", *launch("--engine", engine, name=other))
    said = refused(daemon, 2, "unknown_setting", *launch("--engine", engine, "--set", "autostrat=true"))
    assert "autostart" in said or engine == "docker"
    for option in ("--env=A=x\ny", "--env=A\nB=x", "--set=cpu=a\nb", "--set=a\nb=x", "--volume=/tmp:/a\nb"):
        refused(daemon, 2, "control_character", *launch("--engine", engine, option))
    assert f"{PREFIX}x" not in daemon.names() and f"{PREFIX}x" not in hosts()


@pytest.mark.parametrize("engine", PARAMS)
def test_taken_ports_name_who_has_them(daemon: Daemon, engine: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 18961))
        listener.listen()
        wanted = launch("--engine", engine, "--publish", "18961:80")
        assert f"pid {os.getpid()}" in refused(daemon, 4, "port_taken", *wanted)
    holder = f"{PREFIX}p"
    daemon.run(*launch("--engine", engine, "-p", "18961:80", "--wait", "running", name=holder))
    for other in ENGINES:
        assert holder in refused(daemon, 4, "port_taken", *launch("--engine", other, "-p", "18961:80"))
    daemon.run("rm", "--yes", "--force", holder)
    assert hosts() == set(NAMES.values())


LIST_KEYS = {
    "name": str,
    "engine": str,
    "state": str,
    "addresses": list,
    "image": str,
    "origin": str,
    "created": str,
    "cpus": float | int,
    "memory_bytes": int,
    "accelerated": bool | None,
}
SHOW_KEYS = {
    **LIST_KEYS,
    "restarts": int,
    "uptime_s": float | int | None,
    "memory_used_bytes": int | None,
    "kernel": str | None,
    "isolation": dict,
    "network": list,
    "devices": list,
}


def check_json(daemon: Daemon, engine: str, name: str, state: str) -> None:
    shown, listed = daemon.json("show", name), daemon.names()[name]
    for found, keys in ((listed, LIST_KEYS), (shown, SHOW_KEYS)):
        for key, kind in keys.items():
            assert isinstance(found[key], kind), f"{key}: {found[key]!r}"
        assert (found["engine"], found["state"], found["image"], found["origin"]) == (engine, state, IMAGE, "managed")
        assert (found["cpus"], found["memory_bytes"]) == (1, 256 << 20)
        assert datetime.fromisoformat(found["created"]).tzinfo is not None
        assert (found["accelerated"] is None) == (engine != "kvm")
        assert bool(found["addresses"]) == (state != "stopped")
    assert {key: shown[key] for key in listed} == listed
    assert (shown["uptime_s"] is None) == (state == "stopped")
    assert {"kernel", "boundary", "privileged"} <= shown["isolation"].keys()
    assert shown["isolation"]["kernel"] == ("own" if engine == "kvm" else "shared")
    (card,) = shown["network"]
    assert card["network"] == BRIDGE and card["mac"]
    if state == "running":
        assert shown["kernel"] and shown["memory_used_bytes"] > 0
        assert card["addresses"] == shown["addresses"]


@pytest.mark.parametrize("engine", PARAMS)
def test_json_has_the_promised_keys(daemon: Daemon, engine: str) -> None:
    name = NAMES[engine]
    check_json(daemon, engine, name, "running")
    daemon.run("pause", name)
    check_json(daemon, engine, name, "paused")
    assert name in refused(daemon, 125, "instance_paused", "exec", name, "--", "true")
    daemon.run("resume", name)


@pytest.mark.parametrize("engine", PARAMS)
def test_exec_passes_codes_bytes_and_line_breaks(daemon: Daemon, engine: str) -> None:
    name = NAMES[engine]
    codes = {("sh", "-c", "exit 7"): 7, ("no-such-program",): 127, ("/etc/passwd",): 126}
    for argv, code in codes.items():
        assert daemon.run("exec", name, "--", *argv, check=False).returncode == code
    assert daemon.exec(name, "sh", "-c", "printf '%s|' \"$@\"", "sh", "a\nb", "", "c d") == "a\nb||c d|"
    data = os.urandom(10 << 20)
    assert daemon.run("exec", name, "--", "cat", stdin=data).stdout == data
    told = daemon.run("exec", name, "--", "sha256sum", stdin=data).stdout.decode()
    assert told.split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("engine", [PARAMS[0], PARAMS[1]])
def test_a_launched_command_may_have_line_breaks(daemon: Daemon, engine: str) -> None:
    name = f"{PREFIX}lines"
    daemon.launch(IMAGE, name, engine, command=("sh", "-c", "echo one > /tmp/said\necho two >> /tmp/said\nsleep 60"))
    until(lambda: daemon.exec(name, "cat", "/tmp/said", check=False) == "one\ntwo\n")
    daemon.run("rm", "--yes", "--force", name)


@pytest.mark.parametrize("stubborn", [False, True], ids=["", "stubborn"])
@pytest.mark.parametrize("engine", PARAMS)
def test_a_client_killed_in_the_middle_of_a_command_ends_it(daemon: Daemon, engine: str, stubborn: bool) -> None:
    name, trap = NAMES[engine], "trap '' HUP TERM INT;" if stubborn else ""
    client = begin(daemon, "exec", name, "--", "sh", "-c", f"{trap} echo $$ > /run/victim; while :; do sleep 0.2; done")
    with client:
        until(lambda: daemon.run("exec", name, "--", "test", "-s", "/run/victim", check=False).returncode == 0)
        client.kill()
    gone = ("sh", "-c", "! kill -0 $(cat /run/victim) 2>/dev/null")
    until(lambda: daemon.run("exec", name, "--", *gone, check=False).returncode == 0, 10)
    daemon.run("exec", name, "--", "rm", "/run/victim")


@pytest.mark.parametrize("engine", PARAMS)
def test_two_clients_doing_opposite_things(daemon: Daemon, engine: str) -> None:
    name = f"{PREFIX}two"
    ends: set[int] = set()
    for _ in range(4):
        daemon.run(*launch("--engine", engine, "--wait", "running", name=name))
        orders = (["stop", "--force"], ["start"], ["rm", "--yes", "--force"], ["restart", "--force"], ["rm", "--yes"])
        clients = [begin(daemon, *order, name) for order in orders]
        for client in clients:
            said = client.communicate(timeout=60)[1].decode()
            ends.add(client.returncode)
            # 3: another client's rm was quicker
            assert client.returncode in (0, 3, 4), said
            if client.returncode:
                assert_error(said, next(line[6:] for line in said.splitlines() if line.startswith("code: ")))
        if (row := daemon.names().get(name)) is not None:
            assert row["state"] in ("running", "stopped") and name in hosts()
            daemon.run("rm", "--yes", "--force", name)
        assert name not in hosts()
    assert 4 in ends


@pytest.mark.parametrize("engine", PARAMS)
def test_a_guest_that_ignores_shutdown(daemon: Daemon, engine: str) -> None:
    name = NAMES[engine]
    if engine == "docker":
        name = f"{PREFIX}deaf"
        deaf = ("sh", "-c", "trap '' TERM; while :; do sleep 0.2; done")
        daemon.launch(IMAGE, name, engine, *LIMITS, "--set", "init=false", command=deaf)
    else:
        daemon.run("exec", name, "--", "sh", "-c", STUBBORN[engine], check=False)
        time.sleep(1 if engine == "kvm" else 0)
    with Awake() as awake:
        assert "--force" in refused(daemon, 1, "stop_timeout", "stop", name, "--timeout", "2s")
    assert awake.seconds < 12
    assert daemon.names()[name]["state"] == "running"
    daemon.run("stop", name, "--timeout", "1s", "--force")
    check_json(daemon, engine, name, "stopped")
    refused(daemon, 125, "instance_not_running", "exec", name, "--", "true")
    refused(daemon, 4, "instance_not_running", "pause", name)
    daemon.run("rm", "--yes", name)
    if engine != "docker":
        daemon.launch(IMAGE, name, engine, *LIMITS)


def test_interrupted_launches_leave_all_or_nothing(daemon: Daemon) -> None:
    for number, engine in enumerate((*ENGINES, "lxc", "docker")):
        name = f"{PREFIX}c{number}"
        with begin(daemon, *launch("--engine", engine, name=name)) as client:
            assert client.stderr is not None
            seen = 0
            while seen < number + 1 and client.stderr.readline():
                seen += 1
            client.send_signal(signal.SIGINT)
            said = client.stderr.read().decode()
            assert client.wait(PATIENCE) in (130, 0), said
        (operation,) = [op for op in daemon.json("ops", "list") if op["resource"].endswith(name)]
        daemon.run("ops", "wait", operation["id"], check=False)
        if daemon.json("ops", "show", operation["id"])["state"] == "cancelled":
            assert name not in daemon.names() and name not in hosts()
            assert "cancelled" in said
        else:
            assert daemon.names()[name]["state"] == "running"
            daemon.run("rm", "--yes", "--force", name)


def complete(daemon: Daemon, words: str) -> set[str]:
    env = {**daemon.env, "_TRIUNE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([TRIUNE], env=env, capture_output=True, check=False)
    return {line.split(",", 1)[1] for line in done.stdout.decode().splitlines()}


def test_completion_of_instances_images_networks(daemon: Daemon) -> None:
    assert complete(daemon, f"triune stop {PREFIX}") == set(NAMES.values())
    assert IMAGE in complete(daemon, "triune launch deb")
    assert complete(daemon, "triune network show trite") == {BRIDGE}


# Nonsense to the socket


def say(path: Path, *pieces: bytes) -> bytes:
    """Send bytes and return the answer; the daemon may close at any time."""
    got = b""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(ConnectionError):
        client.settimeout(20)
        client.connect(str(path))
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
        while piece := client.recv(65536):
            got += piece
    return got


def post(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


M = 1 << 20
UPGRADE = (
    f"GET /v1/instances/{NAMES['lxc']}/exec HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: triune.v1\r\n\r\n"
).encode()
NONSENSE = {
    "random": (os.urandom(10 * M), (b"400", b"")),
    "zeros": (bytes(10 * M), (b"400", b"")),
    "lines": (b"\r\n" * 5 * M, (b"400", b"")),
    "path": (b"GET /" + b"a" * 10 * M + b" HTTP/1.1\r\nHost: x\r\n\r\n", (b"400", b"")),
    "header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 10 * M + b"\r\n\r\n", (b"400", b"")),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * M, (b"400", b"")),
    "deep": (post(b"[" * 7 * M), (b"400", b"422")),
    "deeper": (post(b'{"a":' * M + b"1" + b"}" * M), (b"400", b"422")),
    "binary": (post(os.urandom(7 * M)), (b"400",)),
    "number": (post(b'{"name":"a","image":"debian/12","memory":' + b"9" * 5 * M + b"}"), (b"400", b"422")),
    "name": (post(json.dumps({"name": "a" * 7 * M, "image": "debian/12"}).encode()), (b"422",)),
    "large": (post(b'"' + b"a" * 10 * M + b'"'), (b"413",)),
    "lie": (post(b"x" * 100, length=10 * M), (b"413",)),
    "frames": (UPGRADE + os.urandom(10 * M), (b"101",)),
    "frame": (UPGRADE + b"\x81\xff" + (1 << 62).to_bytes(8, "big") + b"mask" + bytes(5 * M), (b"101",)),
}


def test_nonsense_is_answered_or_closed_while_others_are_served(daemon: Daemon) -> None:
    before, logged = resident(daemon), daemon.log.stat().st_size
    with contextlib.ExitStack() as stack:
        for number in range(400):  # connections that say hardly anything
            slow = stack.enter_context(socket.socket(socket.AF_UNIX))
            slow.connect(str(daemon.socket))
            slow.sendall(b"GET /v1/instances HTTP/1.1\r\nHost: x\r\nA: "[: number % 45])
        with ThreadPoolExecutor(4) as pool:
            answers = {kind: pool.submit(say, daemon.socket, data) for kind, (data, _) in NONSENSE.items()}
            while not all(answer.done() for answer in answers.values()):
                with Awake() as awake:
                    assert set(NAMES.values()) <= daemon.names().keys()
                assert awake.seconds < 3
        for kind, (_, expected) in NONSENSE.items():
            status = answers[kind].result()[:20].partition(b" ")[2][:3]
            assert status in expected, f"{kind}: {status!r}"
        assert resident(daemon) < before + 100
    assert b"Traceback" not in daemon.log.read_bytes()[logged:]
    assert daemon.exec(NAMES["lxc"], "echo", "fine") == "fine\n"


# Other tools


@pytest.mark.parametrize("engine", PARAMS)
def test_native_tools_show_and_use_what_triune_made(daemon: Daemon, engine: str) -> None:
    name = NAMES[engine]
    if engine == "kvm":
        assert "running" in out("virsh", "domstate", name)
        assert '"return"' in out("virsh", "qemu-agent-command", name, '{"execute": "guest-ping"}')
    elif engine == "lxc":
        (line,) = [line for line in out("lxc-ls", "-f").splitlines() if line.split()[0] == name]
        assert "RUNNING" in line and daemon.names()[name]["addresses"][0] in line
        assert out("lxc-attach", "-n", name, "--", "hostname").strip() == name
    else:
        assert out(DOCKER, "exec", name, "hostname").strip() == name
        assert name in out(DOCKER, "ps", "--format", "{{.Names}}").split()
    stop, start = {
        "kvm": (("virsh", "destroy", name), ("virsh", "start", name)),
        "lxc": (("lxc-stop", "-k", "-n", name), ("lxc-start", "-n", name)),
        "docker": ((DOCKER, "kill", name), (DOCKER, "start", name)),
    }[engine]
    out(*stop)
    until(lambda: daemon.names()[name]["state"] == "stopped")
    assert name in hosts(), "what is only stopped keeps its address"
    out(*start)
    until(lambda: daemon.names()[name]["state"] == "running")


def make_natively(engine: str, name: str, daemon: Daemon) -> None:
    if engine == "kvm":
        xml = f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
        subprocess.run(["virsh", "define", "/dev/stdin"], input=xml.encode(), check=True, capture_output=True)
    elif engine == "docker":
        out(DOCKER, "run", "-d", "--name", name, "triune/debian:12", "sleep", "infinity")
    else:
        folder = Path("/var/lib/lxc") / name
        (folder / "delta").mkdir(parents=True)
        (tree,) = [form["path"] for form in [daemon.json("image", "show", IMAGE)["forms"]["tree"]]]
        (folder / "config").write_text(
            f"lxc.include = /usr/share/lxc/config/common.conf\nlxc.uts.name = {name}\n"
            f"lxc.rootfs.path = overlayfs:{tree}:{folder}/delta\n"
            "lxc.apparmor.profile = unconfined\nlxc.net.0.type = empty\n"
        )


@pytest.mark.parametrize("engine", PARAMS)
def test_what_others_made_is_adopted(daemon: Daemon, engine: str) -> None:
    name = f"{PREFIX}a{engine}"
    make_natively(engine, name, daemon)
    until(lambda: name in daemon.names())
    assert daemon.names()[name]["origin"] == daemon.json("show", name)["origin"] == "adopted"
    refused(daemon, 4, "instance_exists", *launch("--engine", "lxc", name=name))
    daemon.run("start", name)
    assert daemon.names()[name]["state"] == "running"
    if engine != "kvm":  # it has no system; tests of the engine run commands in adopted ones
        assert daemon.exec(name, "cat", "/etc/debian_version").startswith("12")
    assert "--adopted" in refused(daemon, 4, "instance_adopted", "rm", "--yes", "--force", name)
    daemon.run("stop", name, "--force")
    assert daemon.names()[name]["state"] == "stopped"
    daemon.run("rm", "--yes", "--adopted", name)
    assert name not in daemon.names()


REMOVE = {
    "kvm": (("virsh", "destroy"), ("virsh", "undefine", "--nvram")),
    "lxc": (("lxc-destroy", "-f", "-n"),),
    "docker": ((DOCKER, "rm", "-f"),),
}


@pytest.mark.parametrize("engine", PARAMS)
def test_what_others_remove_gives_its_address_and_name_back(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    name = f"{PREFIX}n{engine}"
    (tmp_path / "precious").write_text("data")
    volume = f"{tmp_path}:/data"
    for _ in range(2):  # the second shows that the name is free
        options = ("--publish", "18962:80", "--wait", "running", *(("--volume", volume) if engine != "kvm" else ()))
        daemon.launch(IMAGE, name, engine, *options)
        assert name in hosts()
        for command in REMOVE[engine]:
            out(*command, name)
        until(lambda: name not in hosts())
        assert name not in daemon.names()
    assert (tmp_path / "precious").read_text() == "data", "the host's folder is nobody's to empty"
    assert name not in daemon.json("network", "show", BRIDGE).get("instances", [])
