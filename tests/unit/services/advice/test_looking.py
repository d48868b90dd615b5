"""Workloads read off Compose files, Dockerfiles, VMX files and instances."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.domain.workload import parse
from triune.host.serving import Service
from triune.services.advice.advising import advise
from triune.services.advice.compose import from_compose
from triune.services.advice.dockerfile import from_dockerfile
from triune.services.advice.knowledge import programs
from triune.services.advice.machine import from_host, from_instance, from_vmx
from triune.services.advice.seen import guest_system

COMPOSE = """
name: shop
services:
  web:
    image: nginx:1.27
    ports: ["8080:80", "443", {target: 81, published: 8081}]
    environment: {SECRET: hush}
    read_only: true
    deploy: {replicas: 3, resources: {limits: {memory: 512M, cpus: "0.5"}}}
  db:
    build: ./db
    volumes: ["data:/var/lib/postgresql", "/srv/conf:/conf:ro"]
    mem_limit: ${MEMORY}
    isolation: hyperv
  agent: {image: agent, pid: host, network_mode: host, volumes: ["/var/run/docker.sock:/var/run/docker.sock"]}
  gpu: {image: vllm, deploy: {resources: {reservations: {devices: [{driver: nvidia, capabilities: [gpu]}]}}}}
  vpn: {image: wg, cap_add: [NET_ADMIN, SYS_MODULE], devices: ["/dev/net/tun:/dev/net/tun"]}
"""


def test_a_compose_file() -> None:
    seen = from_compose(yaml.safe_load(COMPOSE))
    found = {part["name"]: part for part in seen.data["parts"]}
    assert found["web"] == {
        "name": "web", "packaging": "oci-image", "image": "docker:nginx:1.27", "publish": ["8080:80", "8081:81"],
        "state": "stateless", "instances": 3, "scale_out": True, "memory": "512M", "cpus": "0.5",
    }  # fmt: skip
    assert found["db"] == {
        "name": "db", "packaging": "oci-image", "ci": True, "state": "data", "host_access": ["host-folders"],
        "volumes": ["data:/var/lib/postgresql"],
    }  # fmt: skip
    assert found["agent"]["host_access"] == ["docker-socket", "host-network", "host-pid"]
    assert found["gpu"]["gpu"] == "shared"
    assert seen.notes == ("db: not looked at: isolation",)
    assert "hush" not in str(seen)
    answer = advise(parse(seen.data))
    assert [part.choice for part in answer.parts] == ["docker", "docker", "docker", "docker", "kvm"]


@pytest.mark.parametrize(
    "data", [[], {}, {"services": {}}, {"services": {"a": 1}}, {"services": {str(n): {} for n in range(65)}}]
)
def test_no_compose_file(data: Any) -> None:
    with pytest.raises(Invalid) as caught:
        from_compose(data)
    assert caught.value.code == "bad_compose"


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_SERVICE = st.dictionaries(
    st.sampled_from(["image", "volumes", "ports", "deploy", "devices", "cap_add", "platform", "read_only", "scale"]),
    _ANY,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=4), _SERVICE, min_size=1, max_size=2))
def test_any_compose_file_is_read_or_refused(services: dict[str, Any]) -> None:
    try:
        parse(from_compose({"services": services}).data)
    except Invalid as error:
        assert error.hint


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("FROM debian\nVOLUME /data\nCMD app", {"state": "data"}),
        ("FROM golang AS build\nVOLUME /x\nFROM scratch\nCOPY --from=build /a /a", {}),
        ("FROM nvidia/cuda:12.4-base AS base\nFROM base\nRUN a \\\n  && b", {"gpu": "shared"}),
        (
            '# x\nFROM --platform=linux/arm64 debian\nENTRYPOINT ["/sbin/init"]',
            {"architecture": "arm64", "init_system": True},
        ),
        ("FROM alpine\nCMD supervisord -n", {"services": 3}),
        ("FROM docker:27-dind", {"docker_inside": True}),
    ],
)
def test_dockerfiles(text: str, data: dict[str, Any]) -> None:
    common = {"packaging": "oci-image", "ci": True, "administration": "redeploy"}
    assert from_dockerfile(text).data == {**common, **data}


def test_other_dockerfiles() -> None:
    assert from_dockerfile("FROM mcr.microsoft.com/windows/servercore:ltsc2022").data == {"os": "windows"}
    assert from_dockerfile("FROM a\nEXPOSE 80").notes == (
        "it listens on 80: publish what is to be reached from outside",
    )
    with pytest.raises(Invalid, match="no FROM"):
        from_dockerfile("RUN x")


@settings(max_examples=60)
@given(st.text(alphabet='FROM CMD["]\\\n as:x-=/$', max_size=60))
def test_any_dockerfile_is_read_or_refused(text: str) -> None:
    try:
        parse(from_dockerfile(text).data)
    except Invalid as error:
        assert error.hint


def test_a_vmx() -> None:
    text = (
        b'.encoding = "UTF-8"\nguestOS = "windows2019srv-64"\ndisplayName = "DC 1"\nmemsize = "4096"\nnumvcpus = "2"\n'
    )
    found = from_vmx(text + b'pciPassthru0.present = "TRUE"\nvhv.enable = "TRUE"\n').data
    assert (found["os"], found["name"], found["memory"], found["cpus"]) == ("windows", "DC 1", 4 * 2**30, 2)
    assert (found["pci_passthrough"], found["vms_inside"]) == (True, True)
    assert advise(parse(found)).choice == "kvm"
    assert "Linux is assumed" in from_vmx(b'displayName = "x"').notes[0]
    with pytest.raises(Invalid):
        from_vmx(b"a\0b")


@pytest.mark.parametrize(
    ("name", "system"),
    [("ubuntu-64", "linux"), ("winnetenterprise", "windows"), ("freebsd13-64", "freebsd"), ("darwin21-64", "macos"),
     ("other5xlinux-64", "linux"), ("solaris11-64", "other"), ("centos8-64", "linux"), ("dos", "other")],
)  # fmt: skip
def test_guest_systems(name: str, system: str) -> None:
    assert guest_system(name) == system


HOST = {"engines": [{"name": "docker", "available": True, "facets": {"oci": {"available": True}}}]}


def instance(**more: Any) -> dict[str, Any]:
    return {"name": "a", "engine": "lxc", "image": None, "cpus": None, "memory_bytes": None, **more}


def test_instances() -> None:
    found = from_instance(
        instance(
            engine="docker", image="docker:nginx", memory_bytes=2**29,
            isolation={"kernel": "shared", "privileged": True},
            devices=[{"type": "mount", "source": "/var/run/docker.sock"}],
            network=[{"published": ["127.0.0.1:80:80", "x"]}],
        ),
        HOST,
    ).data  # fmt: skip
    assert found == {
        "name": "a", "memory": 2**29, "packaging": "oci-image", "image": "docker:nginx", "privileged": True,
        "host_access": ["docker-socket"], "state": "data", "publish": ["127.0.0.1:80:80"],
    }  # fmt: skip
    assert from_instance(instance(isolation={"kernel": "shared"}), HOST).data["init_system"] is True
    machine = from_instance(instance(engine="kvm", isolation={"kernel": "own"}), HOST)
    assert "init_system" not in machine.data
    assert "--os" in machine.notes[1]
    assert "a name of its own" in machine.notes[-1]
    whole = from_host([instance(name=f"i{number}") for number in range(70)], HOST)
    assert len(parse(whole.data).parts) == 64
    assert "64 of 70" in whole.notes[0]


def test_what_serves_on_the_host() -> None:
    services = [
        Service("mysqld", ("3306/tcp",), 300 * 2**20 + 1),
        Service("frobd", ("53/udp", "99/tcp"), None),
        Service("dnsmasq", ("53/udp",), 2**20),
    ]
    found = from_host([instance(name="a", isolation={"kernel": "shared"})], HOST, services)
    answer = advise(parse(found.data), HOST)
    assert [part.name for part in answer.parts] == ["a", "mysqld", "frobd"]  # what gives out addresses is the host's
    database, unknown = found.data["parts"][1:]
    assert (database["io"], database["publish"], database["memory"]) == ("fsync", ["3306:3306"], 601 * 2**20)
    assert unknown == {"name": "frobd", "publish": ["53:53/udp", "99:99"]}
    assert [note.split(" ", 1)[0] for note in found.notes] == ["a:", "mysqld:", "frobd:"]
    assert "cannot be seen" in found.notes[2]
    assert "cannot be seen" not in found.notes[1]


def test_every_program_is_a_workload() -> None:
    own, known = programs()
    assert own.isdisjoint(known)
    for name, demands in known.items():
        assert len(name) <= 15, "the kernel cuts longer names"
        assert advise(parse({"name": name, **demands}), HOST).choice
