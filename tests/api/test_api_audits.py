"""Audits through the API, the SDK and the command line, on simulated instances."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.api.house import House
from tests.patience import PATIENCE, Awake
from triune.domain.errors import Invalid, NotFound, Unreachable
from triune.domain.isolation import Isolation
from triune.engines.fake.auditing import FakeAuditing
from triune.services.audit.reports import KEPT

ROOT = Path(__file__).parents[2]


def audited(house: House, *names: str, **options: Any) -> dict[str, Any]:
    operation = house.client.audits.start(names, **options)
    result = house.client.operations.result(operation["id"], timeout=PATIENCE)
    found = house.client.audits.report(operation["id"])
    assert result == {"report": f"/v1/audits/{operation['id']}", "summary": found["summary"]}
    return found


def one(report: dict[str, Any]) -> dict[str, Any]:
    (found,) = report["instances"]
    return dict(found)


def rules(found: dict[str, Any]) -> set[str]:
    return {finding["rule"] for finding in found["findings"]}


@pytest.fixture
def full(house: House) -> House:
    house.launch("web", "docker", publish=["8080:80"])
    house.launch("weak", "docker", settings={"audit": "weak"})
    house.launch("vm", "kvm")
    house.launch("sys")
    house.engine("lxc").adopt("off")
    return house


def test_a_report_is_as_its_schema_says(full: House) -> None:
    report = audited(full)
    schema = full.client.audits.schema()
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(report)
    assert schema == json.loads((ROOT / "docs/audit.schema.json").read_text()), "run: make docs"
    assert [found["name"] for found in report["instances"]] == ["off", "sys", "vm", "weak", "web"]
    scores = {found["name"]: found["score"] for found in report["instances"]}
    assert scores["weak"] < scores["web"] < scores["vm"]
    assert report["summary"]["lowest"] == scores["weak"]
    for found in report["instances"]:
        assert max(0, sum(reason["points"] for reason in found["reasons"])) == found["score"]


def test_the_newest_reports_are_kept(house: House) -> None:
    first = house.client.audits.start(probe=False)["id"]
    house.client.operations.wait(first)
    assert house.client.audits.report(first)["instances"] == []
    for _ in range(KEPT):
        house.client.operations.wait(house.client.audits.start(probe=False)["id"])
    folder = house.settings.data / "audits"
    assert len(list(folder.iterdir())) == KEPT
    assert folder.stat().st_mode & 0o077 == 0
    for gone in (first, "0" * 19, "../../x", "schemas"):
        with pytest.raises(NotFound) as caught:
            house.client.audits.report(gone)
        assert caught.value.code in ("audit_not_found", "no_such_route")


def test_the_probe_runs_inside_what_runs(full: House) -> None:
    found = {each["name"]: each["probe"] for each in audited(full)["instances"]}
    assert (found["web"]["ran"], found["web"]["language"]) == (True, "perl")
    told = {step["id"]: step["outcome"] for step in found["web"]["steps"]}
    assert told["mount"] == told["mknod"] == "denied", "the simulation runs programs as nobody"
    assert told["ptrace"] == "succeeded"
    assert found["off"]["ran"] is False
    assert "off is stopped" in found["off"]["reason"]


def test_without_the_probe(full: House) -> None:
    probe = one(audited(full, "web", probe=False))["probe"]
    assert (probe["ran"], probe["reason"], probe["steps"]) == (False, "it was not asked for", [])


def test_what_is_wrong_is_refused_at_once(full: House) -> None:
    with pytest.raises(NotFound):
        audited(full, "none")
    with pytest.raises(Invalid) as caught:
        audited(full, waivers=[{"rule": "secrts", "reason": "x", "expires": "2027-01-01"}])
    assert "Did you mean 'secrets'?" in caught.value.hint
    with pytest.raises(Invalid):
        audited(full, waivers=[{"rule": "secrets", "reason": "x", "expires": "soon"}])


def test_an_engine_that_is_away_is_told(full: House) -> None:
    full.engine("kvm").go_down()
    report = audited(full)
    assert [problem["subject"] for problem in report["problems"]] == ["kvm"]
    assert {found["engine"] for found in report["instances"]} == {"lxc", "docker"}
    assert len(report["problems"][0]["error"]["hint"]) > 0
    done = full.run("audit", "--no-probe")
    assert done.returncode == 1
    for form in ("table", "json", "sarif", "html"):
        done = full.run("audit", "--no-probe", "--format", form)
        assert done.returncode == 1
        assert b"kvm" in done.stdout
        assert b"not looked at" in done.stdout.lower() or b"could not be" in done.stdout or form == "json"
        assert done.stderr.count(b"could not be looked at") == (form != "table")


def test_one_is_looked_at_though_another_engine_is_away(full: House) -> None:
    full.engine("kvm").go_down()
    assert audited(full, "web", probe=False)["problems"] == []
    assert full.run("audit", "web", "--no-probe").returncode == 0
    with pytest.raises(Unreachable):
        audited(full, "vm")
    done = full.run("audit", "vm")
    assert (done.returncode, done.stdout) == (Unreachable.exit_code, b"")


def test_where_nothing_could_be_looked_at_it_does_not_say_that_there_is_nothing(house: House) -> None:
    for engine in ("lxc", "kvm", "docker"):
        house.engine(engine).go_down()
    done = house.run("audit", "--all")
    assert done.returncode == 1
    assert done.stdout.count(b"could not be looked at") == 3
    assert b"no instances" not in done.stderr


def test_what_nobody_thought_of_spoils_one_instance_only(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FakeAuditing.isolation

    def broken(self: FakeAuditing, name: str) -> Isolation:
        if name == "sys":
            raise OSError(5, "Input/output error")
        return plain(self, name)

    monkeypatch.setattr(FakeAuditing, "isolation", broken)
    report = audited(full, probe=False)
    assert {found["name"] for found in report["instances"]} == {"off", "vm", "weak", "web"}
    (problem,) = report["problems"]
    assert (problem["subject"], problem["error"]["code"]) == ("sys", "audit_failed")
    assert "Input/output error" in problem["error"]["message"]


def test_waivers_of_a_file(full: House, tmp_path: Path) -> None:
    path = tmp_path / "waivers.yaml"
    path.write_text(
        "waivers:\n"
        "- {rule: no-memory-limit, instance: web, reason: tuned by hand, expires: 2099-01-31}\n"
        "- {rule: no-pids-limit, instance: web, reason: long ago, expires: 2020-01-31}\n"
        "- {rule: secrets, reason: none there, expires: 2099-01-31}\n"
    )
    other = tmp_path / "other.yaml"
    other.write_text("waivers:\n- {rule: no-memory-limit, instance: web, reason: tuned, expires: 2099-01-31}\n")
    before = one(audited(full, "web", probe=False))["score"]
    done = full.run("audit", "web", "--no-probe", "--waivers", str(path))
    text = done.stdout.decode()
    assert "waived: it may take all memory" in text
    assert "tuned by hand (until 2099-01-31)" in text
    assert "the waiver of no-pids-limit for web (long ago) expired on 2020-01-31" in text
    assert "the waiver of secrets for * (none there) fits nothing here" in text
    assert "fits nothing here" not in full.run("audit", "sys", "--no-probe", "--waivers", str(other)).stdout.decode()
    report = json.loads(full.run("audit", "web", "--no-probe", "--waivers", str(path), "--format", "json").stdout)
    assert one(report)["score"] > before


def test_bad_waivers_of_a_file(full: House, tmp_path: Path) -> None:
    path = tmp_path / "waivers.yaml"
    for text, word in (("a: 1\nb: [", b"line"), ("- {rul: x}", b"'rule'")):
        path.write_text(text)
        done = full.run("audit", "--waivers", str(path))
        assert done.returncode == 2
        assert word in done.stderr
    assert full.run("audit", "--waivers", str(tmp_path / "none")).returncode == 2
    path.write_bytes(b"\xff\xfe")
    assert full.run("audit", "--waivers", str(path)).returncode == 2


def test_fix_sets_limits_and_nothing_else(full: House) -> None:
    done = full.run("audit", "web", "--no-probe", "--fix")
    assert done.returncode == 0
    assert b"web: set memory=256MiB pids=512" in done.stderr
    limits = full.client.instances.get("web")["limits"]
    assert (limits["memory"], limits["pids"]) == (256 << 20, 512)
    assert not rules(one(audited(full, "web", probe=False))) & {"no-memory-limit", "no-pids-limit"}
    again = full.run("audit", "web", "--no-probe", "--fix")
    assert b"nothing that could be mended safely" in again.stderr
    assert full.client.instances.get("off")["limits"]["memory"] is None


def test_a_hardened_launch(full: House) -> None:
    full.launch("hard", "docker", profile="hardened")
    found = full.client.instances.get("hard")
    assert found["settings"] == {"audit": "strong"}
    assert found["limits"]["pids"] == 512
    full.launch("own", "docker", profile="hardened", settings={"audit": "weak"}, limits={"pids": 9})
    found = full.client.instances.get("own")
    assert (found["settings"], found["limits"]["pids"]) == ({"audit": "weak"}, 9)
    scores = {each["name"]: each["score"] for each in audited(full, probe=False)["instances"]}
    assert scores["own"] < scores["web"] < scores["hard"]
    with pytest.raises(Invalid) as caught:
        full.launch("bad", "docker", profile="hardend")
    assert "Did you mean 'hardened'?" in caught.value.hint


def test_many_are_audited_soon(full: House) -> None:
    for number in range(200):
        full.engine("lxc").adopt(f"many-{number:03}", image="debian/12")
    with Awake() as awake:
        report = audited(full, probe=False)
    assert report["summary"]["instances"] == 205
    assert awake.seconds < 10, "images are read once, not for each"


def test_names_and_usage(full: House) -> None:
    done = full.run("audit", "nope")
    assert (done.returncode, b"no instance 'nope'" in done.stderr) == (3, True)
    assert full.run("audit", "web", "--all").returncode == 2
    table = full.run("audit", "--all", "--no-probe").stdout.decode()
    assert table.splitlines()[1].split()[0] == "weak"


def test_no_instances(house: House) -> None:
    done = house.run("audit")
    assert done.returncode == 0
    assert b"no instances" in done.stderr


class Page(HTMLParser):
    """What a page would load, and whether each element is closed."""

    void = frozenset({"meta", "br", "circle", "rect", "path"})
    loose = frozenset({"tr", "td", "th", "li", "p"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [
            str(value) for key, value in attrs if key in ("src", "srcset") or (key == "href" and tag == "link")
        ]
        if tag not in self.void | self.loose:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void | self.loose:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(full: House, tmp_path: Path) -> None:
    full.engine("docker").adopt("<b>x", image="<script>alert(1)</script>")
    done = full.run("audit", "--format", "html", "--no-probe")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    page = Page(text)
    assert (page.loads, page.open) == ([], [])
    assert "<script" not in text
    assert "url(" not in text
    for word in ("web", "weak", "<b>x", "It may take all memory of the host", "triune set web memory=256MiB"):
        assert word in page.text


def test_sarif_is_as_the_standard_says(full: House, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("- {rule: no-memory-limit, instance: web, reason: known, expires: 2099-01-31}\n")
    done = full.run("audit", "--format", "sarif", "--no-probe", "--waivers", str(path))
    log = json.loads(done.stdout)
    jsonschema.Draft7Validator(json.loads((ROOT / "tests/data/audit/sarif-subset.json").read_text())).validate(log)
    (run,) = log["runs"]
    listed = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in listed}) == len(listed)
    for result in run["results"]:
        assert listed[result["ruleIndex"]]["id"] == result["ruleId"]
    prints = [json.dumps(result["partialFingerprints"]) for result in run["results"]]
    assert len(set(prints)) == len(prints)
    (suppressed,) = [result for result in run["results"] if "suppressions" in result]
    assert suppressed["ruleId"] == "no-memory-limit"
    assert suppressed["suppressions"][0]["justification"] == "known (until 2099-01-31)"
    assert {result["level"] for result in run["results"] if result["ruleId"] == "privileged"} == {"error"}


def test_the_tables_of_the_document_are_up_to_date() -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "tools/audit_docs.py", "--check"], cwd=ROOT, check=False, timeout=PATIENCE)
    assert done.returncode == 0, "run: make docs"
