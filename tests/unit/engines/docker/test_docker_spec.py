"""From launch plans to Docker's create request."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid, TriuneError, Unsupported
from triune.domain.image import DiskForm, OciForm
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.network import Network, Nic, parse_publish
from triune.engines.base import LaunchPlan
from triune.engines.docker.spec import Abilities, ImageStart, create_body

NETWORK = Network(
    name="triune0", bridge="triune0", subnet="10.87.0.0/24", gateway="10.87.0.1", domain="triune.internal"
)
NIC = Nic(network=NETWORK, mac="02:00:0a:57:00:07", address="10.87.0.7")
SMALL = LaunchPlan(
    spec=InstanceSpec(name="web", image="debian/12", engine="docker", network=None),
    form=OciForm(id="sha256:aa", reference="triune/debian:12"),
    image="debian/12",
    created=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
)


def plan(nics: tuple[Nic, ...] = (), **changes: Any) -> LaunchPlan:
    return replace(SMALL, spec=replace(SMALL.spec, **changes), nics=nics)


def body(given_plan: LaunchPlan, start: ImageStart = ImageStart(), **abilities: Any) -> dict[str, Any]:  # noqa: B008
    return create_body(given_plan, start, Abilities(**abilities))


def test_the_smallest() -> None:
    assert body(SMALL) == {
        "Image": "sha256:aa",
        "Hostname": "web",
        "Env": [],
        "ExposedPorts": {},
        "Labels": {
            "triune.managed": "1",
            "triune.image": "debian/12",
            "triune.created": "2030-01-02T03:04:05+00:00",
            "triune.settings": "{}",
            "triune.command": "[]",
        },
        "HostConfig": {
            "Init": True,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "Mounts": [],
            "NetworkMode": "none",
        },
    }


def test_on_the_hosts_own_network() -> None:
    made = body(plan(network="host"))
    assert made["HostConfig"]["NetworkMode"] == "host"
    assert "NetworkingConfig" not in made


def test_everything() -> None:
    full = plan(
        (NIC,),
        cpus=1.5,
        memory=1 << 28,
        publish=(parse_publish("8080:80"), parse_publish("127.0.0.1:5353:53/udp"), parse_publish("8081:80")),
        volumes=(VolumeMount(source="data", target="/data"), VolumeMount(source="/srv", target="/in", read_only=True)),
        env={"A": "b c", "E": ""},
        command=("serve", "--all"),
        settings={
            "restart": "on-failure:3",
            "init": "false",
            "privileged": "true",
            "runtime": "runsc",
            "read-only": "yes",
            "user": "1000:1000",
            "cap-add": "net_admin,SYS_TIME",
            "cap-drop": "ALL",
            "tmpfs": "/run,/tmp",
            "workdir": "/srv",
            "entrypoint": "/bin/sh -c 'a b'",
            "tty": "on",
            "stdin": "1",
            "stop-signal": "sigint",
            "no-new-privileges": "true",
            "pids-limit": "50",
            "shm-size": "64MiB",
        },
    )
    made = body(full)
    assert made.pop("Labels")["triune.cpus"] == "1.5"
    assert made == {
        "Image": "sha256:aa",
        "Hostname": "web",
        "Env": ["A=b c", "E="],
        "Cmd": ["serve", "--all"],
        "Entrypoint": ["/bin/sh", "-c", "a b"],
        "User": "1000:1000",
        "WorkingDir": "/srv",
        "Tty": True,
        "OpenStdin": True,
        "StopSignal": "SIGINT",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "MacAddress": "02:00:0a:57:00:07",
        "NetworkingConfig": {"EndpointsConfig": {"triune0": {"IPAMConfig": {"IPv4Address": "10.87.0.7"}}}},
        "HostConfig": {
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "Init": False,
            "Privileged": True,
            "Runtime": "runsc",
            "ReadonlyRootfs": True,
            "CapAdd": ["NET_ADMIN", "SYS_TIME"],
            "CapDrop": ["ALL"],
            "Tmpfs": {"/run": "", "/tmp": ""},
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": 50,
            "ShmSize": 64 << 20,
            "CpuPeriod": 100_000,
            "CpuQuota": 150_000,
            "Memory": 1 << 28,
            "MemorySwap": -1,
            "Mounts": [
                {"Type": "volume", "Source": "data", "Target": "/data", "ReadOnly": False},
                {"Type": "bind", "Source": "/srv", "Target": "/in", "ReadOnly": True},
            ],
            "NetworkMode": "triune0",
            "Dns": ["10.87.0.1"],
            "DnsSearch": ["triune.internal"],
            "PortBindings": {
                "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "", "HostPort": "8081"}],
                "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
            },
        },
    }


def test_newer_engines_take_the_mac_with_the_endpoint() -> None:
    made = body(plan((NIC,)), endpoint_mac=True)
    assert "MacAddress" not in made
    assert made["NetworkingConfig"]["EndpointsConfig"]["triune0"]["MacAddress"] == NIC.mac


@pytest.mark.parametrize(
    ("start", "command", "init"),
    [
        (ImageStart((), ("/bin/bash",)), (), True),
        (ImageStart((), ("/sbin/init",)), (), False),
        (ImageStart(("/usr/bin/tini", "--"), ("x",)), (), False),
        (ImageStart(("/usr/bin/tini", "--"), ("x",)), ("y",), False),
        (ImageStart((), ("/sbin/init",)), ("sleep", "1"), True),
        (ImageStart((), ("bash",)), ("/lib/systemd/systemd",), False),
    ],
)
def test_an_init_goes_before_what_is_none(start: ImageStart, command: tuple[str, ...], init: bool) -> None:
    assert body(plan(command=command), start)["HostConfig"]["Init"] is init


def test_a_systems_own_program_runs_before_the_command() -> None:
    start = ImageStart((), ("sleep", "infinity"), "/start")

    def asked(**changes: Any) -> dict[str, Any]:
        return body(replace(plan(**changes), machine_id="ab" * 16), start)

    made = asked()
    assert (made["Entrypoint"], made["Cmd"]) == (["/start"], ["sleep", "infinity"])
    assert made["Env"] == [f"container_uuid={'ab' * 16}"]
    assert asked(command=("/sbin/init",))["Cmd"] == ["/sbin/init"]
    assert asked(command=("/sbin/init",))["HostConfig"]["Init"] is False
    assert asked(settings={"entrypoint": "/bin/sh"})["Entrypoint"] == ["/bin/sh"]


def test_disk_limits_need_a_driver_that_can() -> None:
    with pytest.raises(Unsupported) as caught:
        body(plan(disk=1 << 30), disk_limit="because of the driver")
    assert "because of the driver" in caught.value.message
    assert body(plan(disk=1 << 30), disk_limit=None)["HostConfig"]["StorageOpt"] == {"size": str(1 << 30)}


@pytest.mark.parametrize(
    ("given_plan", "code"),
    [
        (plan(name="Web"), "bad_name"),
        (plan(name="we\nb"), "bad_name"),
        (plan(env={"A": "1\n2"}), "control_character"),
        (plan(env={"A=B": "1"}), "bad_variable"),
        (plan(env={"": "1"}), "bad_variable"),
        (plan(command=("a\0b",)), "control_character"),
        (plan(volumes=(VolumeMount(source="../etc", target="/x"),)), "bad_volume"),
        (plan(volumes=(VolumeMount(source="data", target="x"),)), "bad_volume"),
        (plan(volumes=(VolumeMount(source="data", target="/"),)), "bad_volume"),
        (plan(volumes=(VolumeMount(source="a\nb", target="/x"),)), "control_character"),
        (plan(publish=(parse_publish("80:80"),)), "publish_without_network"),
        (plan(settings={"user": "a\nb"}), "control_character"),
        (plan(settings={"restart": "sometimes"}), "bad_setting"),
        (plan(settings={"init": "perhaps"}), "bad_setting"),
        (plan(settings={"tmpfs": "run"}), "bad_setting"),
        (plan(settings={"cap-add": "a b"}), "bad_setting"),
        (plan(settings={"entrypoint": "'open"}), "bad_setting"),
        (plan(settings={"runtime": "../runc"}), "bad_setting"),
        (plan((NIC, NIC)), "one_network"),
        (replace(SMALL, user_data="#cloud-config"), "no_cloud_init"),
        (replace(SMALL, form=DiskForm(path=Path("/x"))), "form_missing"),
        (replace(SMALL, image="a\nb"), "control_character"),
    ],
)
def test_refusals(given_plan: LaunchPlan, code: str) -> None:
    with pytest.raises(TriuneError) as caught:
        body(given_plan)
    assert caught.value.code == code
    assert caught.value.hint


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(Invalid) as caught:
        body(plan(settings={"privilegd": "true"}))
    assert caught.value.code == "unknown_setting"
    assert "privileged" in caught.value.hint


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4))
def test_no_environment_smuggles_control_characters(env: dict[str, str]) -> None:
    try:
        made = body(plan(env=env))
    except Invalid:
        return
    assert made["Env"] == [f"{key}={value}" for key, value in env.items()]
    assert all(char.isprintable() or ord(char) > 127 for entry in made["Env"] for char in entry)
