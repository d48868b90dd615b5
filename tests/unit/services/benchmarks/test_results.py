"""Results: read back, refused where they are not what they say, compared, reported."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.unit.services.benchmarks.fakes import result

from triune.domain.errors import Invalid, NotFound
from triune.services.benchmarks import page, plots
from triune.services.benchmarks.comparing import compare
from triune.services.benchmarks.measured import measured
from triune.services.benchmarks.pairs import pairs
from triune.services.benchmarks.published import beside
from triune.services.benchmarks.results import Result, latest, load, newest, write
from triune.services.benchmarks.subject import EMULATED

SAMPLES = {
    "cpu.single": {"native": [100, 101, 99, 100], "beta": [98, 99, 97, 98], "alpha": [9, 10, 11, 10]},
    "start.ready": {"beta": [1.5, 1.6, 1.4, 1.5], "alpha": [20, 21, 22, 20]},
    "memory.idle": {"native": [9, 9, 9, 9], "beta": [30, 31, 32, 31], "alpha": [500, 510, 505, 500]},
}


def test_a_result_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write(path, result(SAMPLES))
    found = load(path)
    rows = {(row["benchmark"], row["subject"]): row for row in found.as_dict()["summary"]}
    assert rows["cpu.single", "beta"]["relative_to_native"]["verdict"] == "worse"
    assert rows["cpu.single", "beta"]["relative_to_native"]["value"] == pytest.approx(0.98)
    assert rows["cpu.single", "native"]["relative_to_native"] is None
    # There is nothing native about starting an instance.
    assert rows["memory.idle", "beta"]["relative_to_native"] is None
    assert rows["cpu.single", "alpha"]["label"] == EMULATED
    assert [path.name for path in path.parent.iterdir()] == ["a.json"]


def broken(**changes: Any) -> dict[str, Any]:
    return {**result(SAMPLES), **changes}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "malformed_result"),
        (b"{", "malformed_result"),
        (b"[1]", "malformed_result"),
        (b'{"schema": "other"}', "malformed_result"),
        (b"[" * 100_000, "malformed_result"),
        (b"\xff\xfe", "malformed_result"),
        (broken(version=0), "result_of_another_version"),
        (broken(version=2), "result_of_another_version"),
        (broken(version="new\x1b[31m"), "result_of_another_version"),
        (broken(samples={}), "malformed_result"),
        (broken(samples=[{"benchmark": "a"}]), "malformed_result"),
        (broken(samples=[{"benchmark": "a", "subject": "b", "round": 1, "value": True}]), "malformed_result"),
        (broken(samples=[{"benchmark": "a", "subject": "b", "round": 1, "value": -1}]), "malformed_result"),
        (broken(samples=[{"benchmark": "a", "subject": "b", "round": 1, "value": float("nan")}]), "malformed_result"),
        (broken(samples=[{"benchmark": "a", "subject": "b", "round": 1, "value": 10**400}]), "malformed_result"),
        (broken(id="\x1b[2J"), "malformed_result"),
        (broken(started="\ud800"), "malformed_result"),
        (broken(subjects=[3]), "malformed_result"),
        (broken(benchmarks=[{"id": "cpu.single"}]), "malformed_result"),
        (broken(host=None), "malformed_result"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, data: bytes | dict[str, Any], code: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    with pytest.raises(Invalid) as error:
        load(path)
    assert (error.value.code, error.value.exit_code) == (code, 2)
    assert str(path) in error.value.message
    assert error.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load(tmp_path / "none.json")
    with pytest.raises(NotFound):
        latest(tmp_path)


def test_the_newest_of_this_host_is_found_past_broken_ones(tmp_path: Path) -> None:
    write(tmp_path / "20260101-000000-quick-a.json", result(SAMPLES))
    write(tmp_path / "20260102-000000-quick-b.json", result(SAMPLES, host={"hostname": "other"}))
    (tmp_path / "20260103-000000-quick-c.json").write_text("{")
    write(tmp_path / "20260104-000000-quick-d.json", result({}))
    write(tmp_path / "20260105-000000-quick-e.json", result(SAMPLES, state="running"))
    assert newest(tmp_path, hostname="box") == tmp_path / "20260101-000000-quick-a.json"
    assert newest(tmp_path) == tmp_path / "20260102-000000-quick-b.json"
    assert newest(tmp_path / "nowhere") is None


def test_a_comparison_has_a_verdict_only_where_the_interval_excludes_one() -> None:
    first = Result(result({"cpu.single": {"native": [100, 101, 99, 100], "beta": [50, 90, 130, 70]}}))
    second = Result(result({"cpu.single": {"native": [50, 51, 49, 50], "beta": [60, 95, 120, 75]}}, loaded=True))
    found = compare(first, second)
    verdicts = {row["subject"]: row["ratio"]["verdict"] for row in found["rows"]}
    assert verdicts == {"native": "worse", "beta": "equal"}
    assert found["rows"][0]["ratio"]["value"] == pytest.approx(0.5)
    assert found["differences"] == ["the second was measured on a busy host"]


def test_two_results_without_anything_in_common() -> None:
    first = Result(result({"cpu.single": {"native": [1.0]}}))
    second = Result(result({"start.ready": {"beta": [1.0]}}))
    with pytest.raises(Invalid) as error:
        compare(first, second)
    assert error.value.code == "nothing_in_common"


def test_published_figures_are_never_compared_with_emulated_ones() -> None:
    samples = {name: {"kvm": rows["alpha"], "lxc": rows["beta"]} for name, rows in SAMPLES.items() if "alpha" in rows}
    data = result(samples)
    data["subjects"][0]["label"] = EMULATED
    rows = {row["metric"]: row["cells"] for row in beside(Result(data))}
    assert rows["Start-up"]["kvm"]["verdict"] == "emulated"
    assert rows["Start-up"]["lxc"]["verdict"] == "agrees"
    assert rows["Memory of an instance"]["lxc"]["verdict"] == "lower"
    assert rows["Instances on 64 GB"]["lxc"]["verdict"] == "higher"
    assert rows["Start-up"]["docker"]["verdict"] == "missing"


class Elements(HTMLParser):
    """Names of elements, and addresses in them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]


def test_the_page_is_self_contained_and_labels_emulation_everywhere() -> None:
    text = page.html(Result(result(SAMPLES, warnings=["the host is busy"])))
    seen = Elements()
    seen.feed(text)
    assert "script" not in seen.names
    assert all(link.startswith("#") for link in seen.links)
    assert seen.names.count("svg") == 4  # the headline, and a panel for each of the three areas
    for table in text.split("<table>")[1:]:
        head = table.partition("</tr>")[0]
        assert "alpha" not in head or EMULATED in head
    assert "the host is busy" in text


def test_every_plot_labels_emulation() -> None:
    found = Result(result(SAMPLES))
    for plot in (plots.headline(found), plots.area(found, "start"), plots.area(found, "cpu")):
        texts = "".join(ET.fromstring(plot).itertext())
        assert all(word in texts for word in EMULATED.split())


def test_many_remarks_do_not_stand_before_the_figures() -> None:
    text = page.html(Result(result(SAMPLES, warnings=[f"remark {number}" for number in range(30)])))
    front, _, rest = text.partition("<svg")[0].partition("<details>")
    assert (front.count('class="warn"'), rest.count('class="warn"')) == (4, 27)  # with the label of an emulated one
    assert "and 27 remarks more" in rest
    assert "<details>" not in page.html(Result(result(SAMPLES, warnings=["one"]))).partition("<svg")[0]


def test_nothing_in_a_result_becomes_markup() -> None:
    evil = "<script>alert(1)</script>$\\frac{1}{0}$|`"
    data = result(SAMPLES, warnings=[evil], host={"hostname": evil, "mitigations": {evil: evil}})
    data["subjects"][1]["name"] = data["subjects"][1]["title"] = evil
    data["benchmarks"][0]["title"] = evil
    for sample in data["samples"]:
        if sample["subject"] == "beta":
            sample["subject"] = evil
    assert "<script" not in page.html(Result(data))
    assert "<script" not in page.markdown(Result(data))


PAIRED = {
    "disk.raw.read": {"native": [100.0] * 4, "alpha": [50.0, 51.0, 49.0, 50.0]},
    "disk.scsi.read": {"native": [100.0] * 4, "alpha": [40.0, 41.0, 39.0, 40.0]},
    "net.nat.latency": {"native": [9.0] * 4, "beta": [20.0] * 4, "alpha": [90.0] * 4},
    "net.host.latency": {"native": [9.0] * 4, "beta": [10.0] * 4},
}


def test_ways_of_one_subject_are_set_beside_each_other() -> None:
    found = {pair.first: pair.ratios for pair in pairs(Result(result(PAIRED)))}
    assert set(found) == {"disk.scsi.read", "net.nat.latency"}
    assert {name: round(one.value, 2) for name, one in found["disk.scsi.read"].items()} == {"alpha": 0.8}
    # Less time is better: twice the time is half as good. Who has one way only has no ratio.
    assert {name: (round(one.value, 2), one.verdict) for name, one in found["net.nat.latency"].items()} == {
        "beta": (0.5, "worse")
    }


def test_pairs_are_in_every_report_and_label_emulation() -> None:
    found = Result(result(PAIRED))
    section = page.html(found).partition("One way beside another")[2].partition("<h2>")[0]
    assert "0.80×" in section
    assert EMULATED in section.partition("</tr>")[0]
    text = page.markdown(found).partition("## One way beside another")[2].partition("## ")[0]
    assert "0.80×" in text
    assert EMULATED in text
    assert "One way beside" not in page.html(Result(result(SAMPLES)))


def test_markdown_has_a_table_for_each_area() -> None:
    text = page.markdown(Result(result(SAMPLES)))
    for title in ("## Start-up", "## CPU", "## Memory", "## Beside published figures", "## Conditions"):
        assert title in text
    for part in text.split("\n\n"):
        widths = {line.replace("\\|", "").count("|") for line in part.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_emulated_figures_are_never_fed_to_advice(tmp_path: Path) -> None:
    write(tmp_path / "20260101-000000-quick-a.json", result(SAMPLES))
    found = measured(tmp_path, "box")
    assert set(found) == {"native", "beta"}
    assert found["beta"]["cpu.single"]["ratio"]["value"] == pytest.approx(0.98)
    assert found["beta"]["cpu.single"]["source"] == f"measured here: run abc123 of {result({})['started'][:10]}"
    assert measured(tmp_path, "another") == {}
    assert measured(tmp_path / "nowhere", None) == {}


def test_a_busy_host_is_told_with_its_figures(tmp_path: Path) -> None:
    write(tmp_path / "20260101-000000-quick-a.json", result(SAMPLES, loaded=True))
    figure = measured(tmp_path, "box")["beta"]["start.ready"]
    assert figure["loaded"]
    assert "the host being busy" in figure["source"]


def test_each_figure_is_of_the_newest_result_that_has_it(tmp_path: Path) -> None:
    write(tmp_path / "20260101-000000-quick-a.json", result(SAMPLES))
    write(tmp_path / "20260102-000000-quick-b.json", result({"start.ready": {"beta": [9.0]}}, id="new"))
    found = measured(tmp_path, "box")["beta"]
    assert (found["start.ready"]["median"], found["cpu.single"]["median"]) == (9.0, 98.0)


def test_only_what_is_wanted_is_told(tmp_path: Path) -> None:
    write(tmp_path / "20260101-000000-quick-a.json", result(SAMPLES))
    assert measured(tmp_path, "box", {"memory.idle"})["beta"].keys() == {"memory.idle"}
    assert measured(tmp_path, "box", set()) == {}


def test_what_is_no_file_is_no_result(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "20260102-000000-quick-b.json")
    (tmp_path / "20260103-000000-quick-c.json").mkdir()
    (tmp_path / "20260104-000000-quick-d.json").symlink_to("nowhere")
    write(tmp_path / "20260101-000000-quick-a.json", result(SAMPLES))
    assert set(measured(tmp_path, "box")) == {"native", "beta"}
