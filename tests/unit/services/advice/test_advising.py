"""Advice: rules that are whole, answers that agree with what is published, reasons and refusals."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.patience import PATIENCE

from triune.domain.errors import Invalid, Unsupported
from triune.domain.workload import parse
from triune.services.advice.advising import advise, require_choice
from triune.services.advice.knowledge import knowing, knowledge

ROOT = Path(__file__).parents[4]
WORKLOADS: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/data/advice/workloads.yaml").read_text())
RULES = yaml.safe_load((resources.files("triune.services.advice") / "rules/rules.yaml").read_text())
SOURCES = yaml.safe_load((resources.files("triune.services.advice") / "rules/sources.yaml").read_text())
EMULATED = {"architecture": "x86_64", "engines": [{"name": "kvm", "available": True, "facts": {"accelerated": False}}]}


def told(**demands: Any) -> dict[str, Any]:
    return advise(parse(demands)).as_dict()


@pytest.mark.parametrize("row", WORKLOADS, ids=lambda row: str(row["what"]))
@pytest.mark.parametrize("host", [{}, EMULATED], ids=["any", "emulated"])
def test_published_answers(row: dict[str, Any], host: dict[str, Any]) -> None:
    assert advise(parse(row["demands"]), host).choice in {row["expected"], *row.get("also", ())}


def test_the_evaluation_is_large_and_has_every_engine() -> None:
    assert len(WORKLOADS) >= 60
    assert len({row["what"] for row in WORKLOADS}) == len(WORKLOADS)
    assert min(sum(row["expected"] == engine for row in WORKLOADS) for engine in ("kvm", "lxc", "docker")) >= 10
    assert all(row["source"].startswith("https://") and row["because"] for row in WORKLOADS)


def test_the_tables_of_the_document_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "tools/advice_docs.py", "--check"], cwd=ROOT, check=False, timeout=PATIENCE)
    assert done.returncode == 0, "run: make docs"


def test_every_sentence_has_a_source_and_no_period() -> None:
    for rule in knowledge().rules:
        assert rule.blocks or rule.weights
        for sentence in (*rule.blocks.values(), *(text for _, text in rule.weights.values())):
            assert sentence
            assert not sentence.endswith(".")
        assert rule.source.kind in ("rule", "published")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"when": {"oss": "linux"}}, "no key 'oss'"),
        ({"when": {"os": "linus"}}, "no word 'linus'"),
        ({"when": {"os": {"like": "linux"}}}, "no operator 'like'"),
        ({"when": {}}, "no condition"),
        ({"source": "hearsay"}, "no source"),
        ({"blocks": {"xen": "no"}}, "no engine 'xen'"),
        ({"id": "init"}, "two rules"),
    ],
)
def test_broken_rules_are_refused(change: dict[str, Any], complaint: str) -> None:
    broken = deepcopy(RULES)
    broken["rules"][0] |= change
    with pytest.raises(ValueError, match=complaint):
        knowing(broken, SOURCES)


def test_an_answer_has_all_that_is_promised() -> None:
    found = told(
        name="My shop", image="docker:nginx", packaging="oci-image", ci=True, memory="512MiB", publish=["80:80"]
    )
    assert found["choice"] == "docker" == found["ranking"][0]["engine"]
    assert found["command"].startswith(
        "triune launch docker:nginx my-shop --engine docker --memory 512MiB --publish 80:80"
    )
    assert all(
        reason["source"] and reason["text"] for one in found["ranking"] for reason in one["for"] + one["against"]
    )
    assert {"key": "trust", "value": "hostile", "choice": "kvm", "text": "with trust: hostile it is kvm"} in found[
        "would_change"
    ]


def test_what_would_change_it_does() -> None:
    demands = {"packaging": "packages", "administration": "inside", "memory": "128MiB"}
    for change in told(**demands)["would_change"]:
        assert told(**{**demands, change["key"]: change["value"]})["choice"] == change["choice"]


def test_hard_demands_block_whatever_the_soft_ones_say() -> None:
    found = told(packaging="oci-image", ci=True, portable=True, scale_out=True, instances=300, live_migration=True)
    assert found["choice"] == "kvm"
    assert [one["score"] for one in found["ranking"][1:]] == [0, 0]
    assert all(one["blocked_by"][0]["rule"] == "live-migration" for one in found["ranking"][1:])
    assert found["hybrid"][0]["inner"] == "docker"


def test_settings_go_into_the_command() -> None:
    assert "--set nesting=true" in told(docker_inside=True, engines=["lxc"])["command"]
    found = told(os="windows", name="dc")
    assert found["command"].startswith("triune launch --iso INSTALLER.iso dc --engine kvm --set firmware=uefi")


def test_an_image_from_an_engines_own_store_says_how_the_software_comes() -> None:
    answer = told(name="db", image="docker:postgres")
    assert answer["choice"] == "docker"
    assert answer["command"].startswith("triune launch docker:postgres db --engine docker")
    assert told(name="db", image="docker:postgres", packaging="packages") != answer
    assert told(name="db", image="debian/12")["ranking"] == told(name="db")["ranking"]


def test_a_host_that_lacks_an_engine() -> None:
    host = {"engines": [{"name": "kvm", "available": False, "reason": "libvirtd does not run"}]}
    answer = advise(parse({"os": "windows"}), host)
    assert answer.choice is None
    with pytest.raises(Unsupported, match="libvirtd does not run") as caught:
        require_choice(answer)
    assert caught.value.code == "no_engine_fits"
    assert "os: linux" in caught.value.hint


def test_more_than_the_host_has() -> None:
    assert advise(parse({"memory": "64GiB"}), {"memory_bytes": 2**34}).choice is None
    assert advise(parse({"architecture": "arm64"}), {"architecture": "x86_64"}).choice is None
    assert advise(parse({"architecture": "amd64"}), {"architecture": "x86_64"}).choice is not None


@pytest.mark.parametrize("rule", RULES["contradictions"], ids=lambda rule: str(rule["id"]))
def test_contradictions_are_told(rule: dict[str, Any]) -> None:
    demands = {}
    for key, expected in rule["when"].items():
        value = expected
        if isinstance(expected, dict):
            value = {"kernel_modules": ["x"], "host_access": ["host-pid"], "os": "windows"}[key]
            if "has" in expected:
                value = expected["has"] if isinstance(expected["has"], list) else [expected["has"]]
        demands[key] = value[0] if isinstance(value, list) and key == "orchestration" else value
    with pytest.raises(Invalid) as caught:
        advise(parse(demands))
    assert caught.value.code == "contradictory_workload"
    assert rule["text"] in caught.value.message


def test_an_unknown_engine() -> None:
    with pytest.raises(Invalid) as caught:
        told(engines=["xen"])
    assert caught.value.code == "unknown_engine"


def test_parts_that_differ_are_a_hybrid() -> None:
    parts = [{"name": "web", "packaging": "oci-image"}, {"name": "erp", "os": "windows"}]
    found = told(parts=parts)
    assert (found["choice"], [part["choice"] for part in found["parts"]]) == ("hybrid", ["docker", "kvm"])
    assert any("erp" in one["text"] for one in found["hybrid"])
    assert told(parts=parts[:1])["choice"] == "docker"
    assert told(parts=[*parts, {"os": "macos"}])["choice"] is None


def test_explain_has_every_rule() -> None:
    found = advise(parse({"os": "windows"})).as_dict(explain=True)["rules"]
    assert {rule["rule"]: rule["fired"] for rule in found}["foreign-os"]
    assert len(found) == len(RULES["rules"])


def _with(value: float, /, **changes: Any) -> dict[str, Any]:
    """A host where 4k random reads were measured in one engine."""
    sure = {"value": value, "low": value - 0.02, "high": value + 0.02, "real": True}
    figure = {"ratio": sure, "loaded": False, "source": "measured here: it", "median": 1.0} | changes
    return {"measured": {"docker": {"disk.random.read.1": figure}}}


def _points(host: dict[str, Any]) -> tuple[float, str]:
    answer = advise(parse({"io": "random"}), host)
    ranked = next(one for one in answer.ranking if one.engine == "docker")
    return next((one.weight, one.source) for one in (*ranked.pro, *ranked.con) if one.rule == "random-io")


def test_what_was_measured_here_takes_the_place_of_what_is_published() -> None:
    published = _points({})
    assert published[0] == 3
    assert published[1].startswith("published")
    assert _points(_with(0.5)) == (-7, "measured here: it")
    assert _points(_with(1.2)) == (5, "measured here: it")
    assert -7 < _points(_with(0.8))[0] < 5
    for unusable in (_with(0.5, loaded=True), _with(0.5, ratio=None)):
        assert _points(unusable) == published


@pytest.mark.parametrize(("memory", "told"), [("512MiB", "512MiB"), ("2GiB", "2GiB"), (1000, "1000"), (1536, "1536")])
def test_the_command_has_sizes_as_people_write_them(memory: object, told: str) -> None:
    command = advise(parse({"memory": memory, "engines": ["lxc"]})).command
    assert command[command.index("--memory") + 1] == told
