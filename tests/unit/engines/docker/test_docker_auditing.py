"""Facts of containers from Docker's descriptions, and runtimes that the engine knows or doesn't."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from triune.domain import capabilities, seccomp
from triune.domain.errors import Unsupported
from triune.domain.image import OciForm
from triune.domain.instance import InstanceSpec
from triune.domain.isolation import Isolation
from triune.engines.base import LaunchPlan
from triune.engines.docker import runtimes, spec
from triune.engines.docker.auditing import DEFAULT_CAPABILITIES, configured_capabilities, facts
from triune.engines.docker.engine import DockerEngine

INFO = {"SecurityOptions": ["name=seccomp,profile=default", "name=apparmor"], "Runtimes": {"runc": {}}}
IMAGE = {"Created": "2026-01-01T00:00:00.5Z", "RepoDigests": ["nginx@sha256:1"]}


def told(host: dict[str, Any] | None = None, config: dict[str, Any] | None = None, **more: Any) -> Isolation:
    found = {
        "State": {"Running": False},
        "HostConfig": {"MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/sysrq-trigger"], **(host or {})},
        "Config": {"Image": "nginx:1.29", **(config or {})},
        "AppArmorProfile": "docker-default",
        **more,
    }
    return facts(found, INFO, IMAGE, None)


def test_an_ordinary_one() -> None:
    found = told()
    assert found.capabilities == DEFAULT_CAPABILITIES
    assert found.calls_blocked == seccomp.reference_blocked(DEFAULT_CAPABILITIES)
    assert (found.privileged, found.user_namespace, found.filtered, found.proc_guarded) == (False, False, True, True)
    assert (found.label, found.root_inside, found.read_only_root) == ("docker-default", True, False)
    assert (found.image, found.image_origin) == ("docker:nginx:1.29", "nginx@sha256:1")
    assert found.image_created is not None
    assert found.image_created.year == 2026


def test_a_digest_in_containerds_store_is_no_origin() -> None:
    assert told(GraphDriver={"Name": "overlayfs"}).image_origin is None


def test_a_privileged_one() -> None:
    found = told({"Privileged": True, "MaskedPaths": None, "ReadonlyPaths": None})
    assert found.capabilities == capabilities.ALL
    assert (found.privileged, found.filtered, found.calls_blocked) == (True, False, frozenset())
    assert found.proc_guarded is False


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ({"CapDrop": ["ALL"]}, set()),
        ({"CapDrop": ["ALL"], "CapAdd": ["CHOWN", "CAP_KILL"]}, {"chown", "kill"}),
        ({"CapAdd": ["ALL"], "CapDrop": ["SYS_ADMIN"]}, capabilities.ALL - {"sys_admin"}),
        ({"CapAdd": ["NET_ADMIN"]}, DEFAULT_CAPABILITIES | {"net_admin"}),
    ],
)
def test_capabilities_as_configured(host: dict[str, Any], kept: set[str]) -> None:
    assert configured_capabilities(host) == kept


def test_filters_of_ones_own() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}]}
    assert told({"SecurityOpt": [f"seccomp={json.dumps(profile)}"]}).calls_blocked == {"bpf"}
    assert told({"SecurityOpt": ["seccomp=no json"]}).calls_blocked is None
    assert told({"SecurityOpt": ["seccomp=unconfined"]}).filtered is False


def test_what_of_the_host_it_has() -> None:
    mounts = [
        {"Type": "bind", "Source": "/run/docker.sock", "Destination": "/var/run/docker.sock", "RW": True},
        {"Type": "volume", "Name": "data", "Source": "/var/lib/docker/volumes/data", "Destination": "/d", "RW": True},
    ]
    host = {
        "PidMode": "host",
        "NetworkMode": "host",
        "IpcMode": "private",
        "Devices": [{"PathOnHost": "/dev/sda"}],
        "DeviceRequests": [{"Driver": "nvidia"}],
    }
    found = told(host, Mounts=mounts)
    assert [mount.source for mount in found.mounts] == ["/run/docker.sock"]
    assert found.shared_namespaces == ("pid", "net")
    assert found.devices == ("/dev/sda", "nvidia request")


def test_secrets_by_name_and_users() -> None:
    found = told(config={"Env": ["DB_PASSWORD=hunter2", "PATH=/bin"], "User": "1000:1000"})
    assert (found.secrets, found.root_inside) == (("DB_PASSWORD",), False)
    assert "hunter2" not in repr(found)


def test_a_kernel_of_its_own() -> None:
    found = told({"Runtime": "runsc"})
    assert (found.own_kernel, found.user_space, found.accelerated) == (True, True, None)
    found = told({"Runtime": "kata"})
    assert (found.own_kernel, found.user_space, found.accelerated) == (True, False, True)


def test_an_image_that_is_gone() -> None:
    found = facts({"State": {"Running": False}}, INFO, {}, None)
    assert (found.image_created, found.image_origin) == (None, None)
    assert "image_created" in found.unknown


def test_runtimes_that_are_there() -> None:
    assert runtimes.known("runsc", {"runc", "runsc"}) == "runsc"
    assert runtimes.known("kata", {"runc", "io.containerd.kata.v2"}) == "io.containerd.kata.v2"
    assert runtimes.known("crun", None) == "crun"


@pytest.mark.parametrize(
    ("wanted", "word"), [("runsc", "apt-get install runsc"), ("kata", "Kata Containers"), ("crun", "daemon.json")]
)
def test_runtimes_that_are_not(wanted: str, word: str) -> None:
    with pytest.raises(Unsupported) as caught:
        runtimes.known(wanted, {"runc"})
    assert caught.value.code == "runtime_missing"
    assert wanted in caught.value.message
    assert word in caught.value.hint


class Info:
    """A client of an engine that tells of these runtimes."""

    api_version = (1, 41)

    def __init__(self, *runtimes: str) -> None:
        self._info = {"Runtimes": {name: {"path": name} for name in runtimes}}

    def read(self, call: Any, *, missing: object = None) -> Any:
        del missing
        return call(self)

    def info(self) -> dict[str, Any]:
        return self._info


@pytest.mark.parametrize(
    ("there", "wanted", "used"),
    [
        (("runc", "runsc"), "runsc", "runsc"),
        (("runc", "kata-runtime"), "kata", "kata-runtime"),
        (("runc",), "runsc", None),
        (("runc",), "kata", None),
    ],
)
def test_a_launch_takes_a_runtime_that_the_engine_tells_of(
    tmp_path: Path, there: tuple[str, ...], wanted: str, used: str | None
) -> None:
    engine = DockerEngine(state_dir=tmp_path)
    engine._client = Info(*there)  # type: ignore[assignment]
    plan = LaunchPlan(
        spec=InstanceSpec(name="web", image="x", engine="docker", network=None, settings={"runtime": wanted}),
        form=OciForm(id="sha256:1", reference="x"),
        image="x",
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    if used is None:
        with pytest.raises(Unsupported) as caught:
            engine.check(plan)
        assert caught.value.code == "runtime_missing"
        return
    engine.check(plan)
    body = spec.create_body(plan, spec.ImageStart(), engine._abilities(plan))
    assert body["HostConfig"]["Runtime"] == used
