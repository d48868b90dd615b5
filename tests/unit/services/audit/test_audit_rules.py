"""Audits: rules that are whole, judgements, waivers, promises, known escapes, and what a probe says."""

from __future__ import annotations

import shlex
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from typing import Any

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from triune.cli.root import root
from triune.domain import capabilities, seccomp
from triune.domain.errors import Conflict, Invalid
from triune.domain.isolation import Component, Door, HostMount, Isolation
from triune.domain.limits import FIELDS
from triune.engines.base import Command
from triune.services.audit import escapes, facts, judging, probing, waivers
from triune.services.audit.judging import Finding, Score, Subject
from triune.services.audit.knowledge import knowing, knowledge
from triune.services.audit.promises import promised
from triune.services.audit.service import host_facts

FILES = resources.files("triune.services.audit") / "rules"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
TODAY = NOW.date()
PLAIN = Isolation(
    running=True,
    own_kernel=False,
    boundary="namespaces",
    privileged=False,
    user_namespace=False,
    capabilities=frozenset({"chown", "kill"}),
    filtered=True,
    calls_blocked=seccomp.reference_blocked({"chown", "kill"}),
    label="x",
    no_new_privileges=True,
    read_only_root=True,
    proc_guarded=True,
    root_inside=False,
    nesting=False,
    memory_limited=True,
    image="docker:nginx:1.29",
    image_created=NOW,
    image_origin="nginx@sha256:1",
)
WEB = Subject(
    name="web", engine="docker", image="docker:nginx:1.29", used=50 << 20, processes=9, limits=frozenset(FIELDS)
)


def judged(
    isolation: Isolation, subject: Subject = WEB, *, system: bool = False, **more: Any
) -> tuple[Score, list[Finding]]:
    accepted = more.pop("accepted", ())
    given_facts = {"pids_limited": True, "escapes": [], "probed": None, **more}
    told = facts.of(isolation, knowledge(), system=system, now=NOW, **given_facts)
    found = judging.findings(knowledge().rules, told, subject, accepted, TODAY)
    return judging.score(knowledge(), told, found), list(found)


def names(isolation: Isolation, **more: Any) -> set[str]:
    return {found.rule for found in judged(isolation, **more)[1]}


def loaded() -> list[dict[str, Any]]:
    files = ("rules.yaml", "sources.yaml", "escapes.yaml", "steps.yaml")
    return [yaml.safe_load((FILES / name).read_text()) for name in files]


# Rules


def test_nothing_is_found_where_nothing_is() -> None:
    score, found = judged(PLAIN)
    assert (found, score.level) == ([], "fair")
    assert judged(replace(PLAIN, user_namespace=True))[0].level == "strong"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"privileged": True}, "privileged"),
        ({"root_inside": True}, "root-of-the-host"),
        ({"id_map_shared": True}, "shared-id-map"),
        ({"capabilities": frozenset({"sys_admin"})}, "dangerous-capabilities"),
        ({"capabilities": frozenset({"net_raw"})}, "spare-capabilities"),
        ({"filtered": False}, "no-seccomp"),
        ({"calls_blocked": frozenset()}, "weak-seccomp"),
        ({"calls_blocked": frozenset(), "user_namespace": True}, "weak-seccomp-mapped"),
        ({"own_kernel": True, "filtered": False}, "qemu-without-seccomp"),
        ({"label": ""}, "no-label"),
        ({"label": "", "labels_available": False}, "no-label-here"),
        ({"no_new_privileges": False}, "new-privileges"),
        ({"read_only_root": False}, "writable-root"),
        ({"proc_guarded": False}, "open-proc"),
        ({"nesting": True}, "nesting"),
        ({"shared_namespaces": ("pid",)}, "shared-namespaces"),
        ({"shared_namespaces": ("cgroup",)}, "shared-cgroups"),
        ({"ports": ("8080:80", "127.0.0.1:81:81")}, "open-ports"),
        ({"memory_limited": False}, "no-memory-limit"),
        ({"image_created": NOW - timedelta(days=400)}, "old-image"),
        ({"image_origin": ""}, "unknown-image"),
        ({"image": "docker:nginx"}, "moving-tag"),
        ({"secrets": ("DB_PASSWORD",)}, "secrets"),
        ({"own_kernel": True, "process_user": "root"}, "qemu-is-root"),
        ({"displays": (Door(kind="tcp", address="0.0.0.0:5900", group="vnc", guarded=False),)}, "open-display"),
        ({"displays": (Door(kind="tcp", address="127.0.0.1:5900", group="vnc", guarded=False),)}, "local-display"),
        ({"emulated": ("sound",)}, "emulated-devices"),
        ({"own_kernel": True, "accelerated": False}, "emulated-processor"),
        ({"devices": ("/dev/kvm",)}, "host-devices"),
        ({"devices": ("/dev/sda",)}, "host-disks"),
    ],
)
def test_each_fact_has_its_finding(change: dict[str, Any], rule: str) -> None:
    assert rule not in names(PLAIN)
    assert rule in names(replace(PLAIN, **change))


@pytest.mark.parametrize(
    ("source", "read_only", "rule"),
    [
        ("/var/run/docker.sock", True, "control-socket"),
        ("/", False, "host-system-writable"),
        ("/etc/", False, "host-system-writable"),
        ("/proc/sys", True, "host-system-readable"),
        ("/dev/sda1", False, "host-disks"),
        ("/srv/data", False, "host-folders"),
        ("/srv/data", True, None),
        ("/etc/localtime", True, None),
    ],
)
def test_what_of_the_host_is_seen_inside(source: str, read_only: bool, rule: str | None) -> None:
    mount = HostMount(source=source, target="/in", read_only=read_only, kind="folder")
    assert names(replace(PLAIN, mounts=(mount,))) == ({rule} if rule else set())


def test_what_is_unknown_is_no_finding() -> None:
    unknown = Isolation(running=False, own_kernel=False, boundary="?")
    assert names(unknown, pids_limited=None) <= {"no-label-here", "no-label"}


def test_rules_say_what_they_mean() -> None:
    for rule in (*knowledge().rules, *knowledge().host):
        assert not rule.text.endswith(".")
        assert rule.text[0].islower() or rule.text.startswith("QEMU")
        assert ("{evidence}" in rule.text) == bool(rule.evidence) or rule.name in ("no-seccomp",)


@pytest.mark.parametrize("image", ["docker:nginx:1.29", "debian/12", "file:x", "docker:sha256:" + "a" * 64, None])
def test_every_fix_is_a_command_of_this_command_line(image: str | None) -> None:
    subject = Subject(name="Odd_Name.1", engine="lxc", image=image, ports=("80:80",), used=None, processes=None)
    places = judging._places(subject)
    for rule in (*knowledge().rules, *knowledge().host):
        words = shlex.split(judging._fix(rule, places, subject))
        assert words.pop(0) == "triune"
        command: click.Command = root
        context = click.Context(root)
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, rule.name
            command = found
        command.make_context(command.name, words)


def test_broken_rules_are_refused() -> None:
    rules, *others = loaded()
    wrong = deepcopy(rules)
    wrong["rules"][0]["when"] = {"privilegd": True}
    wrong["rules"][1]["source"] = "nowhere"
    wrong["rules"][2]["severity"] = "awful"
    wrong["rules"][3]["id"] = "privileged"
    wrong["rules"][4]["when"] = {"secrets": {"some": True}}
    with pytest.raises(ValueError) as caught:
        knowing(wrong, *others)
    for word in ("privilegd", "nowhere", "awful", "two rules are called privileged", "'some'"):
        assert word in str(caught.value)


# Score and fixes


def test_the_reasons_add_up() -> None:
    score, found = judged(replace(PLAIN, memory_limited=False, root_inside=True))
    assert score.value == sum(reason.points for reason in score.reasons)
    assert [reason.points for reason in score.reasons[1:]] == [-one.points for one in found]
    assert judged(replace(PLAIN, privileged=True, filtered=False, secrets=("a",), proc_guarded=False))[0].value >= 0


def test_limits_with_room_are_safe() -> None:
    loose = replace(PLAIN, memory_limited=False)
    found = {one.rule: one for one in judged(loose, pids_limited=False)[1]}
    assert (found["no-memory-limit"].change, found["no-memory-limit"].safe) == ({"memory": "256MiB"}, True)
    assert (found["no-pids-limit"].change, found["no-pids-limit"].safe) == ({"pids": "512"}, True)
    many = replace(WEB, used=500 << 20, processes=700)
    found = {one.rule: one for one in judged(loose, many, pids_limited=False)[1]}
    assert found["no-memory-limit"].change == {"memory": "2GiB"}
    assert found["no-pids-limit"].change == {"pids": "4096"}
    stopped = replace(WEB, used=None, processes=None)
    assert not any(one.safe for one in judged(loose, stopped, pids_limited=False)[1])
    unable = replace(WEB, limits=frozenset())
    told = [one for one in judged(loose, unable, pids_limited=False)[1] if one.rule.endswith("-limit")]
    assert [(one.change, one.fix) for one in told] == [({}, ""), ({}, "")]


# Waivers


def waiver(**change: Any) -> dict[str, Any]:
    return {"rule": "no-memory-limit", "instance": "web", "reason": "known", "expires": "2027-01-31", **change}


def test_a_waived_finding_takes_no_points() -> None:
    loose = replace(PLAIN, memory_limited=False)
    accepted = waivers.parse([waiver()], "x")
    score, (found,) = judged(loose, accepted=accepted)
    assert (score.value, found.waived) == (judged(PLAIN)[0].value, accepted[0])
    for other in (waiver(instance="db"), waiver(rule="secrets"), waiver(expires="2026-11-20")):
        assert judged(loose, accepted=waivers.parse([other], "x"))[1][0].waived is None
    assert judged(loose, accepted=waivers.parse([waiver(instance="w*", expires=date(2026, 11, 21))], "x"))[1][0].waived


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("waivers: [{rule: secrets", "line 1"),
        ("a: 1\nb: [\n", "line 3"),
        ("waiver: []", "unknown key 'waiver'"),
        ("- {rule: secrets, reasn: x, expires: 2027-01-01}", "unknown key 'reasn'"),
        ("- {rule: secrts, reason: x, expires: 2027-01-01}", "no rule 'secrts'"),
        ("- {rule: secrets, expires: 2027-01-01}", "has no reason"),
        ("- {rule: secrets, reason: x}", "has no expires"),
        ("- {rule: secrets, reason: x, expires: soon}", "'soon' is no day"),
        ("- secrets", "is no mapping"),
        ("waivers: 7", "no list"),
        ("a: &a [*a]", "references"),
        ("x" * (1 << 21), "larger"),
    ],
)
def test_bad_waivers_are_told(text: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        waivers.read(text, "w.yaml")
    assert words in caught.value.message
    assert "w.yaml" in caught.value.message


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("waiver: []", "waivers"),
        ("- {rle: x}", "rule"),
        ("- {rule: secretz, reason: x, expires: 2027-01-01}", "secrets"),
    ],
)
def test_the_nearest_is_offered(text: str, near: str) -> None:
    with pytest.raises(Invalid) as caught:
        waivers.read(text, "w.yaml")
    assert f"Did you mean {near!r}?" in caught.value.hint


def test_no_waivers_are_fine() -> None:
    assert waivers.read("", "x") == waivers.read("waivers:", "x") == ()


@given(st.text(max_size=200))
def test_waivers_may_hold_anything(text: str) -> None:
    with suppress(Invalid):
        waivers.read(text, "x")


# Known escapes


@pytest.mark.parametrize(
    ("version", "fixed", "expected"),
    [
        ("1.1.11", ("1.1.12",), True),
        ("1.1.12", ("1.1.12",), False),
        ("1.1.5+ds1", ("1.2.8", "1.3.3"), True),
        ("1.2.9", ("1.2.8", "1.3.3"), False),
        ("1.3.0", ("1.2.8", "1.3.3"), True),
        ("1.4.1", ("1.2.8", "1.3.3"), False),
        ("1.0.0-rc6", ("1.0.0-rc7",), True),
        ("1.0.0~rc10", ("1.0.0-rc7",), False),
        ("1.0.0", ("1.0.0-rc7",), False),
        ("1:7.2+dfsg", ("8.2.3", "9.0.0"), True),
        ("unknown", ("1.0",), False),
    ],
)
def test_which_versions_are_affected(version: str, fixed: tuple[str, ...], expected: bool) -> None:
    assert escapes.affected(version, fixed) is expected


def test_what_the_distribution_mended_is_not_told() -> None:
    old = Component(name="runc", version="1.1.5")
    told = {escape.name for _, escape in escapes.opened(knowledge().escapes, [old])}
    assert "CVE-2024-21626" in told
    mended = replace(old, told=frozenset(told))
    assert escapes.opened(knowledge().escapes, [mended]) == []
    assert escapes.opened(knowledge().escapes, [Component(name="cat", version="1")]) == []


# Promises and the probe

STEPS = {step.name: step for step in knowledge().steps}


@pytest.mark.parametrize(
    ("step", "change", "user", "expected"),
    [
        ("mount", {}, 0, False),
        ("mount", {"capabilities": capabilities.ALL, "calls_blocked": frozenset()}, 0, True),
        ("mount", {"capabilities": capabilities.ALL}, 0, False),
        ("mount", {"capabilities": capabilities.ALL, "filtered": False}, 0, True),
        ("mount", {"capabilities": capabilities.ALL, "filtered": False}, 1000, False),
        ("mount", {"capabilities": None, "filtered": False}, 0, None),
        ("mount", {"own_kernel": True}, 0, None),
        ("ptrace", {}, 1000, True),
        ("keyctl", {}, 0, False),
        ("mknod", {"capabilities": capabilities.ALL}, 0, True),
        ("mknod", {"capabilities": capabilities.ALL, "user_namespace": True}, 0, False),
        ("sysrq", {}, 0, False),
        ("sysrq", {"proc_guarded": False}, 0, True),
        ("disk", {"capabilities": capabilities.ALL}, 0, False),
        ("disk", {"capabilities": capabilities.ALL, "privileged": True}, 0, None),
    ],
)
def test_what_a_configuration_promises(step: str, change: dict[str, Any], user: int, expected: bool | None) -> None:
    assert promised(STEPS[step], replace(PLAIN, **change), user) is expected


class Said:
    """A session that says what it is told to."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def read(self) -> tuple[int, bytes] | None:
        return (1, self._pieces.pop(0)) if self._pieces else None

    def close_stdin(self) -> None: ...
    def close(self) -> None: ...


class Inside:
    """A way to run commands: `there` are its languages, `said` what the probe prints."""

    def __init__(self, there: bytes, said: bytes = b"", error: Exception | None = None) -> None:
        self._answers, self._error = [there, said], error
        self.ran: list[str] = []

    def open(self, name: str, command: Command) -> Said:
        del name
        if self._error:
            raise self._error
        self.ran.append(command.argv[0])
        return Said(self._answers.pop(0))


def tried(inside: Inside) -> probing.Probed:
    return probing.probe(inside, "web", PLAIN, knowledge().steps)  # type: ignore[arg-type]


def test_a_probe_tells_each_step() -> None:
    inside = Inside(b"perl\nsh\n", b"user\t0\nmount\t1\nptrace\t0\nkeyctl\t0\nsysrq\t-1\nmodule\t38\nend\t0\n")
    found = tried(inside)
    assert (inside.ran, found.ran, found.user) == (["sh", "perl"], True, 0)
    told = {step.name: (step.outcome, step.contradiction) for step in found.steps}
    assert told["mount"] == ("denied", False)
    assert told["ptrace"] == ("succeeded", False)
    assert told["keyctl"] == ("succeeded", True)
    assert told["sysrq"] == told["module"] == ("absent", False)
    assert told["mknod"] == ("untried", False)
    assert "broken-promise" in names(PLAIN, probed=found)


@pytest.mark.parametrize(
    ("inside", "language", "reason"),
    [
        (Inside(b""), "", "no shell"),
        (Inside(b"python3\nsh\n", b"user\t0\nend\t0\n"), "python3", ""),
        (Inside(b"sh\n", b"user\t0\nend\t0\n"), "sh", ""),
        (Inside(b"perl\nsh\n", b"user\t0\nKilled\x1b[2J\n"), "perl", "the last it said was: Killed [2J"),
        (Inside(b"", error=Conflict("instance_not_running", "web is not running")), "", "web is not running"),
    ],
)
def test_a_probe_degrades_openly(inside: Inside, language: str, reason: str) -> None:
    found = tried(inside)
    assert (found.language, found.ran) == (language, not reason)
    assert reason in found.reason


@given(st.text(max_size=300))
def test_an_instance_may_say_anything(said: str) -> None:
    assert all(isinstance(number, int) for number in probing.parse(said).values())


# The host


def test_doors_of_the_host() -> None:
    ours = Door(kind="unix", address="/t.sock", mode=0o666, group="triune", owners=("anna",))
    docker = Door(kind="unix", address="/d.sock", mode=0o660, group="docker", owners=("bob",))
    asked = Door(kind="unix", address="/l.sock", mode=0o777, guarded=True)
    plain = Door(kind="tcp", address="0.0.0.0:2375", guarded=False)
    told = host_facts(ours, [docker, asked, plain, replace(plain, guarded=True)])
    found = {one.rule for one in judging.findings(knowledge().host, told, None, (), TODAY)}
    assert found == {"api-open", "api-group", "engine-group", "engine-port", "engine-port-tls"}
    assert judging.findings(knowledge().host, host_facts(None, []), None, (), TODAY) == ()


def test_runc_does_not_count_where_another_runtime_runs_it() -> None:
    parts = [Component(name="runc", version="1.1.5"), Component(name="Docker", version="20.10.24")]
    assert escapes.concerning(parts, PLAIN) == parts
    assert escapes.concerning(parts, replace(PLAIN, own_kernel=True)) == parts[1:]
