"""The comparison: whole, sourced, and this host's where the probe tells."""

from __future__ import annotations

import json

import pytest

from triune.cli.root import main
from triune.services.advice.comparing import compare
from triune.services.advice.knowledge import features, knowledge

HOST = {
    "hostname": "h",
    "engines": [
        {"name": "kvm", "available": True, "version": "9.0", "facts": {"accelerated": False},
         "facets": {"snapshots": {"available": True}},
         "limits": {"pids": {"available": False, "reason": "own kernel"}}},
        {"name": "docker", "available": False, "reason": "dockerd does not run", "facts": {}},
    ],
}  # fmt: skip


def test_every_cell_is_there_and_has_a_source() -> None:
    for row in features()["rows"]:
        assert set(row["cells"]) == set(knowledge().engines)
        assert row["source"] in knowledge().sources
        assert all(isinstance(text, str) and text for text in row["cells"].values()), row["id"]
    found = compare({})
    assert len(found["rows"]) >= 20
    assert {cell["from"] for row in found["rows"] for cell in row["cells"].values()} == {"published"}


def test_the_host_tells_better() -> None:
    rows = {row["feature"]: row["cells"] for row in compare(HOST)["rows"]}
    assert rows["here"]["kvm"] == {"text": "yes, 9.0", "from": "probe", "source": "probe of h"}
    assert rows["here"]["docker"]["text"] == "not here: dockerd does not run"
    assert rows["here"]["lxc"]["from"] == "published"
    assert rows["virtualization"]["kvm"]["text"] == "emulated: KVM does not work here"
    assert (rows["snapshots"]["kvm"]["text"], rows["limit-pids"]["kvm"]["text"]) == ("yes", "no: own kernel")
    assert rows["start"]["kvm"]["from"] == "published"


def measured(**changes: object) -> dict[str, object]:
    """A figure as `services.benchmarks.measured` tells it."""
    ratio = {"value": 0.5, "low": 0.45, "high": 0.55, "real": True, "verdict": "worse"}
    figure = {"median": 0.7, "unit": "s", "count": 5, "ratio": ratio, "loaded": False, "source": "measured here: it"}
    return {**figure, **changes}


def test_what_was_measured_here_tells_best() -> None:
    figures = {
        "start.ready": measured(ratio=None),
        "memory.idle": measured(median=32.0, ratio=None),
        "cpu.single": measured(),
        "net.latency": measured(ratio={"value": 0.98, "low": 0.9, "high": 1.1, "real": False}),
        "disk.random.read.1": measured(ratio={"value": 0.98, "low": 0.9, "high": 1.1, "real": None}),
    }
    rows = {row["feature"]: row["cells"] for row in compare({**HOST, "measured": {"lxc": figures}})["rows"]}
    assert rows["start"]["lxc"] == {"text": "700 ms to ready", "from": "measured", "source": "measured here: it"}
    assert rows["memory"]["lxc"]["text"] == "32 MiB for an idle one"
    assert rows["density"]["lxc"]["text"] == "about 2,048 idle ones, by memory alone"
    assert rows["cpu"]["lxc"]["text"] == "0.50 × native (0.45 to 0.55)"
    assert rows["round-trip"]["lxc"]["text"].startswith("no difference to native shown")
    assert rows["random-io"]["lxc"]["from"] == "published", "too few samples say nothing"
    assert rows["start"]["kvm"]["from"] == "published"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--no-host", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"] == ["lxc", "docker", "kvm"]
    assert main(["compare", "--no-host", "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("feature,engine,text,from,source\n")
    assert main(["compare", "--no-host"]) == 0
    said = capsys.readouterr().out
    assert "Live migration" in said
    assert "all cells are published" in said
