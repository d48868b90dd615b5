"""`triune doctor` and `triune setup --check` on this very host: what they say is checked against it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from triune.host.probe.view import Tools

pytestmark = pytest.mark.live
PROGRAM = "from triune.cli.local import {0}; {0}()"


def triune(command: str, *argv: str) -> subprocess.CompletedProcess[str]:
    code = PROGRAM.format(command)
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, timeout=90)


@pytest.fixture(scope="module")
def findings() -> dict[str, dict[str, Any]]:
    done = triune("doctor", "--format", "json")
    assert done.returncode == 0, done.stderr
    return {finding["id"]: finding for finding in json.loads(done.stdout)}


def test_every_finding_has_its_shape(findings: dict[str, dict[str, Any]]) -> None:
    assert len(findings) > 30
    for finding in findings.values():
        assert set(finding) == {"id", "area", "status", "sentence", "fix", "facts"}
        assert finding["status"] in ("ok", "warning", "missing")
    assert not [name for name in findings if name.endswith(".unknown")], "every probe finished"


@pytest.mark.kvm
def test_kvm_is_told_as_it_was_proved(findings: dict[str, dict[str, Any]]) -> None:
    from triune.host.kvm import prove

    if not Path("/dev/kvm").exists():
        assert findings["kvm.device"]["status"] == "missing"
        assert findings["engines.kvm"]["facts"]["accelerated"] is False
        return
    proof = prove()
    assert findings["kvm.device"]["facts"]["usable"] == proof.usable
    assert findings["engines.kvm"]["facts"]["accelerated"] == proof.usable
    if not proof.usable:
        assert findings["kvm.device"]["status"] == "warning", "a device that opens and is no good is not ok"
        assert "emulated" in findings["kvm.device"]["sentence"]
        assert "emulated" in findings["engines.kvm"]["sentence"]


def test_cgroup_version(findings: dict[str, dict[str, Any]]) -> None:
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert findings["cgroups.version"]["facts"]["version"] == (2 if unified else 1)
    assert findings["cgroups.version"]["status"] == ("ok" if unified else "warning")


@pytest.mark.docker
def test_docker_and_its_firewall(findings: dict[str, dict[str, Any]]) -> None:
    answer = Tools().ask("/run/docker.sock", "/info")
    assert answer is not None, "Docker's daemon does not answer"
    assert findings["programs.docker-daemon"]["facts"]["version"] == answer["ServerVersion"]
    enabled = answer["LiveRestoreEnabled"]
    assert findings["programs.live-restore"]["facts"]["enabled"] is enabled
    assert findings["programs.live-restore"]["status"] == ("ok" if enabled else "warning")
    rules = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True, check=True).stdout
    if "-P FORWARD DROP" in rules:
        told = findings.get("network.forward-drop") or findings["network.forward"]
        assert told["facts"] == {"policy": "DROP", "docker": True}
        assert "Docker set iptables' FORWARD policy to DROP" in told["sentence"]


@pytest.mark.lxc
def test_idmapped_mounts_are_tried(findings: dict[str, dict[str, Any]]) -> None:
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    assert findings["storage.idmap"]["facts"].get("known") is not False
    assert findings["engines.lxc"]["facts"]["usable"] is True
    triune("doctor", "--format", "json")
    assert Path("/proc/self/mountinfo").read_text().count("\n") - before < 3, "the trial leaves no mount"


def test_required_engines(findings: dict[str, dict[str, Any]]) -> None:
    from triune.domain.errors import Invalid

    usable = [
        finding["facts"]["engine"]
        for finding in findings.values()
        if finding["facts"].get("usable") is True and "engine" in finding["facts"]
    ]
    assert triune("doctor", *(f"--require={name}" for name in usable)).returncode == 0
    assert Invalid.__name__ in triune("doctor", "--require=xen").stderr


def test_the_table_is_for_people() -> None:
    said = triune("doctor").stdout
    assert said.startswith("Engines\n")
    assert " ok, " in said


def test_as_nobody_it_still_answers() -> None:
    code = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); " + PROGRAM.format("doctor")
    argv = [sys.executable, "-c", code, "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = {finding["id"]: finding for finding in json.loads(done.stdout)}
    assert found["network.forward"]["facts"]["known"] is False
    assert not [name for name in found if name.endswith(".unknown")]


def test_setup_check_changes_nothing() -> None:
    done = triune("setup", "--check")
    assert done.returncode in (0, 1), done.stderr
    again = triune("setup", "--check")
    assert again.stdout == done.stdout
    assert (done.returncode == 0) == ("Nothing is to do." in done.stdout)
