"""When the running state of containers can be kept, and why not; without Docker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triune.domain.errors import Conflict, Failed, Unsupported
from triune.engines.docker import processes
from triune.engines.docker.processes import Processes
from triune.host import criu
from triune.host.criu import why_not

EXPERIMENTAL = {"ExperimentalBuild": True, "InitBinary": "/usr/bin/true"}


@pytest.fixture
def criu_at(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is to be found, and what its check says."""
    told: dict[str, Any] = {"program": Path("/usr/sbin/criu"), "trouble": None}
    monkeypatch.setattr(criu, "find", lambda _: told["program"])
    monkeypatch.setattr(criu, "trouble", lambda _: told["trouble"])
    return told


def test_each_thing_that_lacks_is_said(criu_at: dict[str, Any], tmp_path: Path) -> None:
    assert why_not(EXPERIMENTAL, "/nowhere") is None
    assert "--experimental" in str(why_not({"ExperimentalBuild": False}, "/nowhere"))
    (link := tmp_path / "docker-init").symlink_to("/usr/bin/true")
    linked = why_not({**EXPERIMENTAL, "InitBinary": str(link)}, "/nowhere")
    assert '"init-path": "/usr/bin/true"' in str(linked)
    assert why_not({**EXPERIMENTAL, "InitBinary": "/usr/bin/true"}, "/nowhere") is None
    criu_at["trouble"] = "criu check says: vdso"
    assert why_not(EXPERIMENTAL, "/nowhere") == "CRIU does not work on this host: criu check says: vdso"
    criu_at["program"] = None
    assert "not installed" in str(why_not(EXPERIMENTAL, "/nowhere"))


def container(**changes: Any) -> dict[str, Any]:
    found = {"Name": "/web", "Config": {"Tty": False}, "HostConfig": {"Runtime": "runc"}, "State": {"Running": True}}
    return {**found, **changes}


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"Config": {"Tty": True}}, Unsupported, "terminal"),
        ({"HostConfig": {"Runtime": "runsc"}}, Unsupported, "runsc"),
        ({"State": {"Running": False}}, Conflict, "stopped"),
    ],
)
def test_containers_that_have_none(
    criu_at: dict[str, Any], changes: dict[str, Any], kind: type[Exception], said: str
) -> None:
    client: Any = SimpleNamespace(read=lambda _: EXPERIMENTAL, socket_path="/nowhere")
    Processes(client).require(container())
    with pytest.raises(kind, match=said):
        Processes(client).require(container(**changes))
    criu_at["program"] = None
    with pytest.raises(Unsupported, match="not installed"):
        Processes(client).require(container())


@pytest.mark.parametrize("form", ["errno 0 path= {}: unknown", "errno 0\nlog file: {}: unknown"])
def test_criu_s_own_reason_is_read_from_its_log(tmp_path: Path, form: str) -> None:
    log = tmp_path / "criu-dump.log"
    error = Failed("docker_failed", f"Docker: criu failed: type NOTIFY {form.format(log)}", hint="Look.")
    assert processes._said(error) == error.message
    log.write_text("(00.01) Error (criu/tty.c:1): tty: Unable to find a master\n")
    assert processes._said(error) == "CRIU says: tty: Unable to find a master"


@pytest.mark.parametrize(("times", "says"), [(2, "content sha256:f8e5: already exists"), (1, "criu failed")])
def test_what_an_attempt_left_in_containerd_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, says: str
) -> None:
    asked: list[str] = []

    def post(path: str, **_more: object) -> None:
        asked.append(path)
        if len(asked) <= times:
            raise Failed("docker_failed", f"Docker: Cannot checkpoint container 1: {says}", hint="Look.")

    client: Any = SimpleNamespace(read=lambda _: {"DockerRootDir": str(tmp_path / "docker")}, post=post)
    monkeypatch.setattr(processes, "_place", lambda _found: "/place")
    monkeypatch.setattr(processes, "_bundles", lambda _found: "/bundles")
    monkeypatch.setattr(processes, "_POLL", 0.01)
    found: Any = {**container(), "Id": "1"}
    if "already exists" in says:
        Processes(client).write(found, tmp_path)
        assert len(asked) == 3
        return
    with pytest.raises(Failed, match="criu failed"):
        Processes(client).write(found, tmp_path)
    assert len(asked) == 1
