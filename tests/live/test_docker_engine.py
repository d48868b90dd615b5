"""The docker engine against the Docker of this host."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.adapters import DockerAdapter
from tests.contract.conftest import finish
from tests.patience import PATIENCE, Awake, until
from triune.domain.errors import Cancelled, Conflict, Failed, Invalid, NotFound, Unsupported
from triune.domain.instance import Instance, Origin, State, VolumeMount
from triune.domain.network import Network, Nic, parse_publish
from triune.domain.operation import Silent
from triune.engines.base import Command, EngineEvent, LaunchPlan, Terminal
from triune.engines.docker.engine import DockerEngine

pytestmark = [pytest.mark.live, pytest.mark.docker]

ADAPTER = DockerAdapter()
ADAPTER.reference = "tdoc-live:1"
SILENT = Silent()
NETWORK = Network(
    name="tdoc-net", bridge="tdocbr0", subnet="10.213.7.0/24", gateway="10.213.7.1", domain="tdoc.internal"
)
_numbers = itertools.count(1)


def docker(*argv: str) -> str:
    done = subprocess.run(["/usr/bin/docker", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    made = ADAPTER.make()
    assert isinstance(made, DockerEngine)
    ADAPTER.cleanup(made)
    ADAPTER.form(made)
    yield made
    ADAPTER.cleanup(made)


@pytest.fixture
def name(engine: DockerEngine) -> Iterator[str]:
    text = f"tdoc-l{next(_numbers)}"
    yield text
    engine.delete(text)


@pytest.fixture
def network(engine: DockerEngine) -> Iterator[Network]:
    subprocess.run(["ip", "link", "del", NETWORK.bridge], capture_output=True, check=False)
    subprocess.run(["ip", "link", "add", NETWORK.bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", f"{NETWORK.gateway}/24", "dev", NETWORK.bridge], check=True)
    subprocess.run(["ip", "link", "set", NETWORK.bridge, "up"], check=True)
    assert engine.bridging is not None
    engine.bridging.ensure(NETWORK)
    yield NETWORK
    for row in engine.list():
        if row.name.startswith("tdoc-"):
            engine.delete(row.name)
    engine.bridging.forget(NETWORK)
    subprocess.run(["ip", "link", "del", NETWORK.bridge], check=True)


def make(engine: DockerEngine, name: str, *nics: Nic, start: bool = True, **changes: Any) -> LaunchPlan:
    plan = replace(ADAPTER.plan(engine, name, **changes), nics=nics)
    engine.create(plan, SILENT)
    if start:
        engine.start(name, SILENT)
    return plan


def row(engine: DockerEngine, name: str) -> Instance:
    return next(one for one in engine.list() if one.name == name)


def inside(engine: DockerEngine, name: str, *argv: str) -> str:
    assert engine.commands is not None
    ended = finish(engine.commands.open(name, Command(argv=argv)))
    assert ended.code == 0, ended.err
    return ended.out.decode()


def nic(last: int) -> Nic:
    return Nic(network=NETWORK, mac=f"02:00:0a:d5:07:{last:02x}", address=f"10.213.7.{last}")


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until(condition, within=seconds, pause=0.05)


class TestOrdinaryContainers:
    def test_docker_sees_ours_with_its_mark(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, settings={"restart": "always", "user": "guest"}, memory=64 << 20, cpus=0.5)
        found = json.loads(docker("inspect", name))[0]
        assert found["Config"]["Labels"]["triune.managed"] == "1"
        assert found["HostConfig"]["Memory"] == 64 << 20
        assert found["HostConfig"]["CpuQuota"] == 50_000
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "always"
        assert inside(engine, name, "id", "-u").strip() == "1000"
        assert engine.get(name).settings == {"restart": "always", "user": "guest"}

    def test_those_of_others_are_adopted_and_usable(self, engine: DockerEngine) -> None:
        name = "tdoc-Foreign_1.x"
        docker("run", "-d", "--name", name, "--memory", "32m", "--cpus", "0.25", ADAPTER.reference, "sleep", "500")
        try:
            found = row(engine, name)
            assert (found.origin, found.state) == (Origin.ADOPTED, State.RUNNING)
            assert (found.memory_bytes, found.cpus) == (32 << 20, 0.25)
            assert found.image == ADAPTER.reference
            assert found.addresses
            assert inside(engine, name, "echo", "hi") == "hi\n"
            assert engine.get(name).instance == found
        finally:
            engine.delete(name)
        assert not docker("ps", "-aq", "--filter", f"name={name}")

    def test_limits_changed_behind_us_are_seen(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, memory=64 << 20)
        watch = engine.watch(lambda _: None)
        try:
            time.sleep(0.3)
            assert row(engine, name).memory_bytes == 64 << 20
            docker("update", "--memory", "96m", "--memory-swap", "192m", name)
            wait_for(lambda: row(engine, name).memory_bytes == 96 << 20)
        finally:
            watch.close()

    def test_the_beginning_of_an_id_is_not_a_name(self, engine: DockerEngine, name: str) -> None:
        make(engine, name)
        container = docker("inspect", "-f", "{{.Id}}", name)
        for part in (container[:4], container[:12]):
            engine.delete(part)
            with pytest.raises(NotFound):
                engine.get(part)
            with pytest.raises(NotFound):
                engine.stop(part, timeout=0, force=True, progress=SILENT)
        assert row(engine, name).state is State.RUNNING

    def test_details(self, engine: DockerEngine, name: str, tmp_path: Path) -> None:
        volumes = (
            VolumeMount(source=str(tmp_path), target="/host", read_only=True),
            VolumeMount(source="tdoc-volume", target="/data"),
        )
        (tmp_path / "note").write_text("from the host")
        make(engine, name, volumes=volumes, settings={"privileged": "false", "cap-drop": "ALL", "read-only": "true"})
        try:
            detail = engine.get(name)
            assert {device["target"]: device["read_only"] for device in detail.devices} == {
                "/host": True,
                "/data": False,
            }
            assert inside(engine, name, "cat", "/host/note") == "from the host"
            assert detail.isolation["kernel"] == "shared"
            assert detail.isolation["read_only"] is True
            assert detail.isolation["capabilities"] == {"add": [], "drop": ["ALL"]}
            assert detail.restarts == 0
            assert detail.disk_used_bytes is not None
        finally:
            engine.delete(name)
            assert docker("volume", "ls", "-q", "--filter", "name=tdoc-volume") == "tdoc-volume"
            docker("volume", "rm", "tdoc-volume")

    def test_a_host_folder_that_is_not_there(self, engine: DockerEngine, name: str) -> None:
        with pytest.raises(Invalid):
            make(engine, name, volumes=(VolumeMount(source="/no/such/folder", target="/x"),))
        assert name not in {one.name for one in engine.list()}

    def test_an_image_that_is_gone(self, engine: DockerEngine, name: str) -> None:
        plan = ADAPTER.plan(engine, name)
        with pytest.raises(NotFound) as caught:
            engine.create(replace(plan, form=replace(plan.form, id="sha256:" + "0" * 64)), SILENT)
        assert caught.value.code == "image_not_found"

    def test_disk_limits_say_why_not(self, engine: DockerEngine, name: str) -> None:
        if "disk-limit" not in engine.probe().missing:
            pytest.skip("by design: this storage driver can limit disks")
        with pytest.raises(Unsupported) as caught:
            engine.check(ADAPTER.plan(engine, name, disk=1 << 30))
        assert caught.value.code == "disk_limit_unsupported"


class TestLife:
    def test_a_program_that_is_not_there(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, start=False, command=("/no/such/program",), settings={"init": "false"})
        with pytest.raises(Failed) as caught:
            engine.start(name, SILENT)
        assert caught.value.code == "start_failed"
        assert "/no/such/program" in caught.value.message
        assert row(engine, name).state is State.STOPPED

    def test_a_command_that_did_its_work_is_ready(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, command=("true",))
        engine.wait_ready(name, 10, SILENT)

    def test_a_command_that_failed_is_not(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, command=("sh", "-c", "echo because of this; exit 3"))
        wait_for(lambda: row(engine, name).state is State.STOPPED)
        with pytest.raises(Failed) as caught:
            engine.wait_ready(name, 10, SILENT)
        assert caught.value.code == "not_ready"
        assert caught.value.details["log"] == ["because of this"]
        assert caught.value.details["exit_code"] == 3

    def test_health_checks_are_waited_for(self, engine: DockerEngine) -> None:
        name = "tdoc-healthy"
        check = ["--health-cmd", "test -e /tmp/ready", "--health-interval", "200ms", "--health-retries", "100"]
        script = "sleep 1; touch /tmp/ready; sleep 500"
        docker("run", "-d", "--name", name, *check, ADAPTER.reference, "sh", "-c", script.replace("touch", ": >"))
        try:
            begin = time.monotonic()
            with pytest.raises(Failed, match="health check"):
                engine.wait_ready(name, 0.3, SILENT)
            engine.wait_ready(name, 30, SILENT)
            assert time.monotonic() - begin > 0.8
        finally:
            engine.delete(name)

    def test_restart_always_stays_stopped_when_asked(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, settings={"restart": "always"})
        engine.stop(name, timeout=5, force=False, progress=SILENT)
        time.sleep(1)
        assert row(engine, name).state is State.STOPPED

    def test_one_that_restarts_for_ever_is_an_error_and_can_be_stopped(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, command=("false",), settings={"restart": "always"})
        wait_for(lambda: row(engine, name).state is State.ERROR)
        assert row(engine, name).error
        wait_for(lambda: (engine.get(name).restarts or 0) > 0)
        engine.stop(name, timeout=2, force=True, progress=SILENT)
        time.sleep(1)
        assert row(engine, name).state is State.STOPPED

    def test_the_images_own_stop_signal_is_sent(self, engine: DockerEngine, name: str) -> None:
        script = "trap 'exit 0' USR1; trap '' TERM; while :; do sleep 0.1; done"
        make(engine, name, command=("sh", "-c", script), settings={"stop-signal": "SIGUSR1", "init": "false"})
        time.sleep(0.3)
        engine.stop(name, timeout=5, force=False, progress=SILENT)
        assert row(engine, name).state is State.STOPPED

    def test_stopping_can_be_cancelled(self, engine: DockerEngine, name: str) -> None:
        class Impatient(Silent):
            def check(self) -> None:
                raise Cancelled("cancelled", "cancelled")

        make(engine, name, command=ADAPTER.stubborn_command)
        with pytest.raises(Cancelled):
            engine.stop(name, timeout=30, force=True, progress=Impatient())
        assert row(engine, name).state is State.RUNNING

    def test_one_that_removes_itself(self, engine: DockerEngine) -> None:
        docker("run", "-d", "--rm", "--name", "tdoc-fleeting", ADAPTER.reference, "sleep", "500")
        engine.stop("tdoc-fleeting", timeout=0, force=True, progress=SILENT)
        wait_for(lambda: "tdoc-fleeting" not in {one.name for one in engine.list()})

    def test_deleting_one_twice_at_once(self, engine: DockerEngine, name: str) -> None:
        make(engine, name)
        errors: list[BaseException] = []

        def remove() -> None:
            try:
                engine.delete(name)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=remove) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert errors == []
        assert name not in {one.name for one in engine.list()}


class TestNetwork:
    def test_static_address_name_server_and_host_name(self, engine: DockerEngine, network: Network, name: str) -> None:
        make(engine, name, nic(7))
        assert row(engine, name).addresses == ("10.213.7.7",)
        text = inside(engine, name, "sh", "-c", "ip addr show eth0; cat /etc/resolv.conf; hostname")
        assert "10.213.7.7/24" in text
        assert "02:00:0a:d5:07:07" in text
        assert "tdoc.internal" in text
        assert text.splitlines()[-1] == name
        card = engine.get(name).network[0]
        assert (card["network"], card["mac"], card["addresses"]) == (
            network.name,
            "02:00:0a:d5:07:07",
            ["10.213.7.7"],
        )

    def test_ensure_is_cheap_and_mends(self, engine: DockerEngine, network: Network, name: str) -> None:
        assert engine.bridging is not None
        with Awake() as awake:
            engine.bridging.ensure(network)
        assert awake.seconds < 0.5
        make(engine, name, nic(9), start=False)
        docker("network", "rm", network.name)
        docker("network", "create", "--subnet", "10.213.99.0/24", network.name)
        engine.bridging.ensure(network)
        found = json.loads(docker("network", "inspect", network.name))[0]
        assert found["Options"]["com.docker.network.bridge.name"] == network.bridge
        assert found["IPAM"]["Config"][0]["IPRange"] == "10.213.7.192/26"
        # A container made before the mending joins the new network by its name.
        engine.start(name, SILENT)
        assert row(engine, name).addresses == ("10.213.7.9",)

    def test_a_network_in_use_is_not_torn_down(self, engine: DockerEngine, network: Network, name: str) -> None:
        assert engine.bridging is not None
        make(engine, name, nic(8))
        with pytest.raises(Conflict) as caught:
            engine.bridging.ensure(replace(network, bridge="tdocbr9"))
        assert caught.value.code == "network_in_use"
        with pytest.raises(Conflict):
            engine.bridging.forget(network)
        assert row(engine, name).state is State.RUNNING

    def test_a_bridge_that_another_docker_network_has(self, engine: DockerEngine, network: Network) -> None:
        assert engine.bridging is not None
        with pytest.raises(Conflict) as caught:
            engine.bridging.ensure(replace(network, name="tdoc-second"))
        assert caught.value.code == "bridge_taken"
        engine.bridging.forget(replace(network, name="tdoc-second"))

    def test_the_bridge_stays_ours(self, engine: DockerEngine, network: Network) -> None:
        assert engine.bridging is not None
        engine.bridging.forget(network)
        engine.bridging.forget(network)
        assert Path(f"/sys/class/net/{network.bridge}").exists()
        engine.bridging.ensure(network)

    def test_a_network_that_is_gone_fails_the_start(self, engine: DockerEngine, network: Network, name: str) -> None:
        assert engine.bridging is not None
        make(engine, name, nic(7), start=False)
        engine.bridging.forget(network)
        with pytest.raises(Failed) as caught:
            engine.start(name, SILENT)
        assert caught.value.code == "start_failed"
        engine.bridging.ensure(network)

    def test_published_ports(self, engine: DockerEngine, network: Network, name: str) -> None:
        assert engine.ports is not None
        publish = (parse_publish("127.0.0.1:38771:80"), parse_publish("38772:53/udp"))
        serve = ("sh", "-c", "while :; do echo hello | nc -l -p 80; done")
        make(engine, name, nic(7), publish=publish, command=serve)
        assert sorted(engine.ports.published()[name]) == ["127.0.0.1:38771:80", "38772:53/udp"]

        def greeted() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", 38771), 2) as connection:
                    return connection.recv(100) == b"hello\n"
            except OSError:
                return False

        wait_for(greeted)
        assert sorted(engine.get(name).network[0]["published"]) == ["127.0.0.1:38771:80", "38772:53/udp"]

    def test_a_taken_port_is_a_conflict(self, engine: DockerEngine, network: Network, name: str) -> None:
        with socket.create_server(("127.0.0.1", 38773)):
            make(engine, name, nic(7), start=False, publish=(parse_publish("127.0.0.1:38773:80"),))
            with pytest.raises(Conflict) as caught:
                engine.start(name, SILENT)
        assert caught.value.code == "port_taken"
        assert caught.value.details["ports"] == ["127.0.0.1:38773:80"]
        engine.start(name, SILENT)
        assert row(engine, name).state is State.RUNNING
        other = f"{name}-other"
        make(engine, other, nic(8), start=False, publish=(parse_publish("38773:80"),))
        with pytest.raises(Conflict) as caught:
            engine.start(other, SILENT)
        assert caught.value.code == "port_taken"


class TestSessions:
    def test_user(self, engine: DockerEngine, name: str) -> None:
        make(engine, name)
        assert engine.commands is not None
        ended = finish(engine.commands.open(name, Command(argv=("id", "-un"), user="guest")))
        assert ended.out == b"guest\n"

    def test_line_breaks_in_names_of_variables_are_refused(self, engine: DockerEngine, name: str) -> None:
        make(engine, name)
        assert engine.commands is not None
        with pytest.raises(Invalid):
            engine.commands.open(name, Command(argv=("true",), env={"A\nB": "1"}))

    def test_an_image_without_a_shell_says_so(self, engine: DockerEngine, name: str) -> None:
        make(engine, name)
        inside(engine, name, "busybox", "rm", "/bin/sh")
        assert engine.commands is not None
        with pytest.raises(Unsupported) as caught:
            engine.commands.open(name, Command(argv=()))
        assert caught.value.code == "no_shell"

    def test_a_child_of_the_command_dies_with_it(self, engine: DockerEngine, name: str) -> None:
        make(engine, name)
        assert engine.commands is not None
        script = "trap '' HUP; sleep 4321 & wait"
        session = engine.commands.open(name, Command(argv=("sh", "-c", script)))
        wait_for(lambda: "sleep 4321" in inside(engine, name, "ps"))
        session.close()
        wait_for(lambda: "sleep 4321" not in inside(engine, name, "ps"), 3)

    def test_the_console_is_the_main_process(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, command=("sh",), settings={"tty": "true", "stdin": "true"})
        assert engine.console is not None
        session = engine.console.open(name, Terminal(columns=90, rows=20))
        session.write(b"stty size; echo a$((40+2))b\n")
        output = b""
        while b"a42b" not in output:
            part = session.read()
            assert part is not None
            output += part[1]
        assert b"20 90" in output
        session.close()
        assert row(engine, name).state is State.RUNNING

    def test_following_a_log(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, command=("sh", "-c", "for i in 1 2 3 4; do echo line $i; sleep 0.2; done"))
        assert engine.logs is not None
        text = b"".join(engine.logs.read(name, tail=None, follow=True, stop=lambda: False))
        assert text.splitlines() == [b"line 1", b"line 2", b"line 3", b"line 4"]

    def test_a_log_of_many_megabytes(self, engine: DockerEngine, name: str) -> None:
        make(engine, name, command=("sh", "-c", "head -c 5000000 /dev/zero "))
        wait_for(lambda: row(engine, name).state is State.STOPPED, 30)
        assert engine.logs is not None
        size = sum(len(part) for part in engine.logs.read(name, tail=None, follow=False, stop=lambda: False))
        assert size == 5_000_000

    def test_a_log_that_is_not_kept(self, engine: DockerEngine) -> None:
        name = "tdoc-nolog"
        docker("run", "-d", "--name", name, "--log-driver", "none", ADAPTER.reference, "sleep", "500")
        try:
            assert engine.logs is not None
            with pytest.raises(Unsupported):
                list(engine.logs.read(name, tail=1, follow=False, stop=lambda: False))
        finally:
            engine.delete(name)


def test_events_of_dockers_own_client(engine: DockerEngine) -> None:
    events: list[EngineEvent] = []
    watch = engine.watch(events.append)
    try:
        time.sleep(0.3)
        docker("run", "-d", "--name", "tdoc-watched", ADAPTER.reference, "sleep", "500")
        docker("pause", "tdoc-watched")
        docker("unpause", "tdoc-watched")
        docker("rename", "tdoc-watched", "tdoc-renamed")
        docker("rm", "-f", "tdoc-renamed")
        wait_for(lambda: any(event.action == "deleted" for event in events))
    finally:
        watch.close()
    ours = [(event.action, event.name) for event in events if event.name in ("tdoc-watched", "tdoc-renamed")]
    assert ours == [
        ("created", "tdoc-watched"),
        ("started", "tdoc-watched"),
        ("paused", "tdoc-watched"),
        ("resumed", "tdoc-watched"),
        ("renamed", "tdoc-renamed"),
        ("stopped", "tdoc-renamed"),
        ("deleted", "tdoc-renamed"),
    ]
