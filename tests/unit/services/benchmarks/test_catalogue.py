"""The catalogue: complete, and each parser reads what its tool really printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.meta.sources import ROOT

from triune.domain.errors import Failed, Invalid
from triune.services.benchmarks.catalogue import Benchmark, catalogue, filled, read
from triune.services.benchmarks.parsing import Parser
from triune.services.benchmarks.published import published

DATA = Path(__file__).parents[3] / "data" / "bench"
FORMS = ("tree", "qcow2", "raw", "scsi", "btrfs")
# Of each benchmark with a command: what its tool printed (in tests/data/bench), and the figure in it.
RECORDED = {
    "cpu.single": ("sysbench-cpu", 3984.24),
    "cpu.all": ("sysbench-cpu", 3984.24),
    "cpu.dgemm": ("dgemm", 55.232),
    "cpu.compress": ("zstd", 189.0),
    "cpu.syscall": ("dd-syscalls", 0.601198e9 / 600_000),
    "cpu.switch": ("stress-ng-switch", 6460.62),
    "cpu.wakeup": ("wakeup", 96.093),
    "memory.bandwidth": ("sysbench-memory", 52546.95),
    "memory.write": ("sysbench-memory", 52546.95),
    "memory.random": ("sysbench-memory-random", 27.1876),
    "memory.fault": ("stress-ng-fault", 4377.88),
    "disk.sequential.read": ("fio", 255261409 / 2**20),
    "disk.sequential.write": ("fio-write", 5897.1 * 4096 / 2**20),
    "disk.random.read.1": ("fio", 62319.68),
    "disk.random.read.32": ("fio", 62319.68),
    "disk.random.write.1": ("fio-write", 5897.1),
    "disk.random.write.32": ("fio-write", 5897.1),
    "disk.fsync": ("fio-write", 159.2436),
    **{f"disk.{form}.read": ("fio", 62319.68) for form in FORMS},
    **{f"disk.{form}.fsync": ("fio-write", 159.2436) for form in FORMS},
    "disk.create": ("stress-ng-dentry", 102.458),
    "net.receive": ("iperf3", 17129.95),
    "net.send": ("iperf3", 17129.95),
    "net.between": ("iperf3", 17129.95),
    "net.packets": ("iperf3-udp", 39930690.99 / 8 / 64),
    "net.latency": ("sockperf", 8.179),
    "net.connections": ("ab", 6293.8),
    **{f"net.{way}.receive": ("iperf3", 17129.95) for way in ("nat", "host")},
    **{f"net.{way}.latency": ("sockperf", 8.179) for way in ("nat", "host")},
    **{f"net.{way}.connections": ("ab", 6293.8) for way in ("nat", "host")},
    "app.nginx": ("wrk", 11558.14),
    "app.redis.get": ("redis", 46189.38),
    "app.redis.set": ("redis", 49019.61),
    "app.pgbench": ("pgbench", 592.75892),
}


@pytest.mark.parametrize("benchmark", [one for one in catalogue().benchmarks if one.command], ids=lambda one: one.id)
def test_each_parser_reads_what_its_tool_printed(benchmark: Benchmark) -> None:
    name, expected = RECORDED[benchmark.id]
    assert benchmark.parser.figure((DATA / f"{name}.txt").read_text()) == pytest.approx(expected, rel=1e-3)


def test_the_suites_are_nested_and_every_area_is_in_each() -> None:
    known = catalogue()
    for found in known.benchmarks:
        assert "full" in found.suites
        assert "quick" not in found.suites or "standard" in found.suites
    for suite in known.suites:
        assert {found.area for found in known.of(suite)} == set(known.areas)


def test_only_known_tokens_are_put_in() -> None:
    argv = ["awk", "{print $1}", "{seconds}s at {address}", "{nothing}"]
    assert filled(argv, {"seconds": 2, "address": "a"}) == ["awk", "{print $1}", "2s at a", "{nothing}"]


def test_only_takes_areas_and_ids() -> None:
    known = catalogue()
    assert {found.area for found in known.only("quick", ["disk"])} == {"disk"}
    assert [found.id for found in known.only("quick", ["cpu.dgemm"])] == ["cpu.dgemm"]
    with pytest.raises(Invalid) as error:
        known.only("quick", ["gpu"])
    assert error.value.code == "unknown_benchmark"


def test_a_broken_catalogue_says_all_that_is_wrong() -> None:
    entry = {"id": "a", "area": "cpu", "tool": "none", "better": "more", "where": "inside", "suites": ["tiny"]}
    data = {"version": 1, "areas": {"cpu": "CPU"}, "tools": {}, "suites": {}, "benchmarks": [entry, entry]}
    data["pairs"] = [{"title": "one", "first": "a", "second": "b"}]
    with pytest.raises(ValueError, match=r"two benchmarks are called a") as error:
        read(data)
    for word in (
        "no tool 'none'",
        "no better 'more'",
        "no suite 'tiny'",
        "lacks command",
        "lacks parser",
        "a pair of b",
    ):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "events per second: ", "events per second: 0", "events per second: .", "{}", '{"a": [1]}', "{" * 9000]
)
def test_no_figure_is_an_error_and_not_a_guess(text: str) -> None:
    for parser in (Parser(pattern=r"events per second:\s+([\d.]+)"), Parser(json="a.1.b"), Parser(json="a.x")):
        with pytest.raises(Failed) as error:
            parser.figure(text)
        assert error.value.code == "no_figure"


@given(st.text(max_size=300))
@settings(max_examples=40, deadline=None)
def test_parsers_take_any_text(text: str) -> None:
    for benchmark in catalogue().benchmarks:
        try:
            assert benchmark.parser.figure(text) > 0
        except Failed as error:
            assert error.code == "no_figure"


def test_published_rows_name_benchmarks_of_the_catalogue() -> None:
    ids = {found.id: found for found in catalogue().benchmarks}
    for row in published()["rows"]:
        assert row["benchmark"] in ids
        assert row["source"] in published()["sources"]
        assert ids[row["benchmark"]].relative == (row["kind"] == "relative")
        assert all(low <= high for low, high in row["cells"].values())


def test_pairs_are_of_one_unit() -> None:
    known = {found.id: found for found in catalogue().benchmarks}
    for pair in catalogue().pairs:
        first, second = known[pair["first"]], known[pair["second"]]
        assert (first.unit, first.better) == (second.unit, second.better)


def test_the_document_names_every_benchmark() -> None:
    text = (ROOT / "docs" / "BENCH.md").read_text()
    named = set(re.findall(r"`([a-z]+(?:\.[a-z0-9]+)+)`", text))
    assert {found.id for found in catalogue().benchmarks} <= named
