"""Limits as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain import limits
from triune.domain.errors import Invalid
from triune.domain.limits import FIELDS, Limits, format_cpu_list, format_value, parse, parse_cpu_list


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("cpus", "1.5", 1.5),
        ("cpus", 2, 2.0),
        ("cpu.weight", "10000", 10000),
        ("cpu.pin", " 3,0-1, 2 ,6", "0-3,6"),
        ("memory", "512MiB", 512 << 20),
        ("memory", 1e9, 10**9),
        ("swap", "0", 0),
        ("pids", "64", 64),
        ("io.read", "50MiB/s", 50 << 20),
        ("io.write", "1g", 1 << 30),
        ("io.read", 4096, 4096),
        ("iops.read", "100", 100),
        ("iops.write", "100/s", 100),
        ("net.in", "100Mbit/s", 10**8),
        ("net.in", "100M", 10**8),
        ("net.in", "1.5 gbit", 15 * 10**8),
        ("net.out", "10Mibit/s", 10 << 20),
        ("net.out", "12MB/s", 96 * 10**6),
        ("net.out", "64000", 64000),
        *((key, word, None) for key in FIELDS for word in ("none", "-", "", None)),
    ],
)
def test_values(key: str, text: str | float | None, value: object) -> None:
    assert parse({key: text}) == {key: value}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("cpus", "0"),
        ("cpus", "nan"),
        ("cpus", "-1"),
        ("cpu.weight", "0"),
        ("cpu.weight", "10001"),
        ("cpu.weight", "1.5"),
        ("cpu.pin", "3-1"),
        ("cpu.pin", "a"),
        ("cpu.pin", "0,"),
        ("cpu.pin", "99999"),
        ("memory", "lots"),
        ("swap", "-1"),
        ("pids", "0"),
        ("pids", "9999999"),
        ("io.read", "100Mbit/s"),
        ("io.read", "1"),
        ("iops.read", "1k"),
        ("net.in", "100"),
        ("net.in", "ibit"),
        ("net.in", "5ibit"),
        ("net.in", "fast"),
    ],
)
def test_nonsense_is_refused_with_an_example(key: str, text: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse({key: text})
    assert raised.value.code == "bad_limit"
    assert key in raised.value.message
    assert f"{key}=none" in raised.value.hint


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(Invalid, match="cpu_weight") as raised:
        parse({"cpu_weight": "5"})
    assert raised.value.code == "unknown_limit"
    assert "'cpu.weight'" in raised.value.hint


def test_control_characters_are_refused() -> None:
    with pytest.raises(Invalid) as raised:
        parse({"cpu.pin": "0\n1"})
    assert raised.value.code == "control_character"


@given(st.sampled_from(sorted(FIELDS)), st.text(max_size=30) | st.floats() | st.integers())
def test_any_value_is_read_or_refused(key: str, value: str | float) -> None:
    try:
        found = parse({key: value})[key]
    except Invalid as error:
        assert error.hint
    else:
        assert parse({key: found})[key] == found
        assert format_value(key, found)
        assert Limits().changed({key: found}).get(key) == found


@given(st.sets(st.integers(0, 8191), min_size=1, max_size=60))
def test_cpu_lists_come_back(cpus: set[int]) -> None:
    assert set(parse_cpu_list(format_cpu_list(cpus))) == cpus


@given(st.integers(8000, 10**15))
def test_bits_come_back_about_as_they_were(rate: int) -> None:
    again = parse({"net.in": limits.format_value("net.in", rate)})["net.in"]
    assert isinstance(again, int)
    assert abs(again - rate) <= rate / 1000


def test_for_people() -> None:
    assert format_value("net.in", 10**8) == "100 Mbit/s"
    assert format_value("io.read", 50 << 20) == "50.0 MiB/s"
    assert format_value("memory", 512 << 20) == "512 MiB"
    assert format_value("cpus", 1.5) == "1.5"
    assert format_value("iops.read", 100) == "100/s"
    assert format_value("pids", 10000000) == "10000000"
    assert format_value("swap", None) == "without limit"


def test_by_key_has_what_is_limited() -> None:
    assert Limits(cpus=1.0, net_in=8000).by_key() == {"cpus": 1.0, "net.in": 8000}
    assert Limits(cpus=1.0).changed({"cpus": None, "swap": 0}) == Limits(swap=0)
