"""`triune audit` on the real engines: what the probe inside can do is what the configuration promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.daemon import Daemon
from tests.live.system_fixtures import IMAGE, separate_daemon
from triune.services.audit import probing

pytestmark = [pytest.mark.live, pytest.mark.docker, pytest.mark.lxc, pytest.mark.kvm]

PREFIX = "taud-"
APP, TIGHT_APP, LOOSE = "taud-app", "taud-app-tight", "taud-loose"
SYSTEM, TIGHT_SYSTEM = "taud-sys", "taud-sys-tight"
MACHINE, TIGHT_MACHINE = "taud-vm", "taud-vm-tight"
SLEEP = ("sleep", "infinity")
# What a kernel of this kind may lack altogether.
LACKING = {"module", "sysrq", "release-agent", "disk"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with separate_daemon("aud", PREFIX, 181) as made:
        try:
            machine = made.begin("launch", IMAGE, MACHINE, "--engine", "kvm")
            options = ("--publish", "18181:80", "--env", "DB_PASSWORD=hunter2hunter2")
            made.launch(IMAGE, APP, "docker", *options, command=SLEEP)
            made.launch(IMAGE, TIGHT_APP, "docker", "--profile", "hardened", command=SLEEP)
            made.launch(IMAGE, SYSTEM, "lxc")
            made.launch(IMAGE, TIGHT_SYSTEM, "lxc", "--profile", "hardened")
            _run_loose()
            assert machine.wait(300) == 0
            made.run("launch", IMAGE, TIGHT_MACHINE, "--engine", "kvm", "--profile", "hardened", "--no-start")
            yield made
        finally:
            _remove_loose()
            made.remove_all(PREFIX)


def _client() -> Any:
    import docker

    return docker.from_env()


def _remove_loose() -> None:
    for container in _client().containers.list(all=True, filters={"name": f"^{LOOSE}$"}):
        container.remove(force=True)


def _run_loose() -> None:
    """A container as careless people make them, by Docker's own means."""
    import docker.errors

    _remove_loose()
    mounts = {"/var/run/docker.sock": {"bind": "/var/run/docker.sock"}, "/etc": {"bind": "/host/etc"}}
    common: dict[str, Any] = {"name": LOOSE, "pid_mode": "host", "network_mode": "none"}
    common |= {"volumes": mounts, "detach": True}
    image = f"triune/{IMAGE.replace('/', ':')}"
    try:
        _client().containers.run(image, list(SLEEP), privileged=True, **common)
    except docker.errors.APIError:
        # A host that has not got every capability itself can't give them all away.
        _remove_loose()
        many = ["SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN", "SYS_MODULE"]
        options = ["seccomp=unconfined", "apparmor=unconfined"]
        _client().containers.run(image, list(SLEEP), cap_add=many, security_opt=options, **common)


@pytest.fixture(scope="module")
def reports(daemon: Daemon) -> dict[str, dict[str, Any]]:
    names = (APP, TIGHT_APP, LOOSE, SYSTEM, TIGHT_SYSTEM, MACHINE, TIGHT_MACHINE)
    return {name: daemon.json("audit", name)["instances"][0] for name in names}


def rules(report: dict[str, Any]) -> set[str]:
    return {found["rule"] for found in report["findings"]}


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {step["id"]: step["outcome"] for step in report["probe"]["steps"]}


def test_the_probe_runs_in_each_and_nothing_contradicts(reports: dict[str, dict[str, Any]]) -> None:
    for name, report in reports.items():
        if name == TIGHT_MACHINE:
            continue
        assert report["probe"]["ran"], (name, report["probe"]["reason"])
        assert (report["probe"]["language"], report["probe"]["user"]) == ("perl", 0)
        assert [step for step in report["probe"]["steps"] if step["contradiction"]] == [], name
        assert "untried" not in outcomes(report).values()


def test_what_is_promised_and_there_succeeds(reports: dict[str, dict[str, Any]]) -> None:
    for name in (APP, TIGHT_APP, LOOSE, SYSTEM, TIGHT_SYSTEM):
        for step in reports[name]["probe"]["steps"]:
            if step["promised"] and step["id"] not in LACKING:
                assert step["outcome"] == "succeeded", (name, step)


def test_hardened_ones_can_do_less_and_score_higher(reports: dict[str, dict[str, Any]]) -> None:
    for plain, tight in ((APP, TIGHT_APP), (SYSTEM, TIGHT_SYSTEM), (MACHINE, TIGHT_MACHINE)):
        assert reports[plain]["score"] < reports[tight]["score"]
        assert rules(reports[tight]) < rules(reports[plain])
    assert outcomes(reports[APP])["raw-socket"] == "succeeded"
    assert outcomes(reports[TIGHT_APP])["raw-socket"] == "denied"
    assert outcomes(reports[SYSTEM])["keyctl"] == "succeeded"
    assert outcomes(reports[TIGHT_SYSTEM])["keyctl"] == "denied"
    assert reports[TIGHT_SYSTEM]["facts"]["id_map"] != reports[SYSTEM]["facts"]["id_map"]


def test_a_loose_one_is_told_to_be_loose(reports: dict[str, dict[str, Any]]) -> None:
    loose = reports[LOOSE]
    assert loose["score"] == 0
    assert (loose["level"], loose["origin"]) == ("poor", "adopted")
    assert {"control-socket", "host-system-writable", "no-seccomp", "shared-namespaces"} <= rules(loose)
    assert rules(loose) & {"privileged", "dangerous-capabilities"}
    told = outcomes(loose)
    for step in ("mount", "ptrace", "keyctl", "mknod", "handle", "unshare-user", "unshare-mount", "packet-socket"):
        assert told[step] == "succeeded", step


def test_machines_have_a_kernel_of_their_own(reports: dict[str, dict[str, Any]]) -> None:
    machine, stopped = reports[MACHINE], reports[TIGHT_MACHINE]
    assert machine["facts"]["own_kernel"] is True
    assert machine["facts"]["process_user"] != "root"
    assert outcomes(machine)["mount"] == outcomes(machine)["sysrq"] == "succeeded"
    assert stopped["probe"]["ran"] is False
    assert "stopped" in stopped["probe"]["reason"]
    assert stopped["facts"]["emulated"] == []


def test_secrets_are_told_by_name_only(daemon: Daemon, reports: dict[str, dict[str, Any]]) -> None:
    assert reports[APP]["facts"]["secrets"] == ["DB_PASSWORD"]
    assert {"secrets", "open-ports"} <= rules(reports[APP])
    for form in ("json", "html", "sarif"):
        assert b"hunter2" not in daemon.run("audit", APP, "--no-probe", "--format", form).stdout


def test_nothing_is_left_inside(daemon: Daemon, reports: dict[str, dict[str, Any]]) -> None:
    assert reports
    for name in (APP, TIGHT_APP, LOOSE, SYSTEM, MACHINE):
        left = daemon.exec(
            name, "sh", "-c", "ls -d /tmp/.triune* /run/.triune* 2>/dev/null; grep -c triune-probe /proc/mounts; true"
        )
        assert left.strip() == "0", name


def test_the_shell_alone_agrees(daemon: Daemon, reports: dict[str, dict[str, Any]]) -> None:
    for name in (APP, SYSTEM, LOOSE):
        said = probing.parse(daemon.exec(name, "sh", "-c", probing._text("probe.sh")))
        assert "end" in said
        told = outcomes(reports[name])
        for step, number in said.items():
            if step in told and number != probing._UNTRIED:
                assert (number == 0) == (told[step] == "succeeded"), (name, step)


def test_fix_sets_what_is_safe(daemon: Daemon) -> None:
    done = daemon.run("audit", APP, "--no-probe", "--fix")
    assert b"set memory=" in done.stderr
    found = _client().api.inspect_container(APP)["HostConfig"]
    assert found["PidsLimit"] >= 512
    assert found["Memory"] >= 256 << 20
    after = json.loads(daemon.run("audit", APP, "--no-probe", "--format", "json").stdout)["instances"][0]
    assert not rules(after) & {"no-memory-limit", "no-pids-limit"}


def test_a_runtime_that_is_not_there(daemon: Daemon) -> None:
    done = daemon.run("launch", IMAGE, "taud-kata", "--engine", "docker", "--runtime", "kata", check=False)
    assert done.returncode == 6
    assert b"does not know the runtime 'kata'" in done.stderr
    assert "taud-kata" not in daemon.names()
