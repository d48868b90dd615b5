"""Limits in a HostConfig, and in updates of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.domain.limits import Limits
from triune.engines.docker import limit_config
from triune.engines.docker.limit_config import host_config, limits_of, update_body

LIMITS = st.builds(
    Limits,
    cpus=st.none() | st.integers(1, 6400).map(lambda value: value / 100),
    cpu_weight=st.none() | st.integers(1, 99),
    cpu_pin=st.sampled_from([None, "0", "5-7"]),
    memory=st.integers(1 << 23, 1 << 40),
    swap=st.none() | st.integers(0, 1 << 40),
    pids=st.none() | st.integers(1, 1 << 22),
)
KEYS = frozenset({"cpus", "cpu.weight", "cpu.pin", "memory", "swap", "pids"})


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_config.cpus, "online", lambda: tuple(range(8)))


@given(LIMITS)
def test_what_is_set_is_read(wanted: Limits) -> None:
    assert limits_of(host_config(wanted, weight=True), weight=True) == wanted


@given(LIMITS, LIMITS)
def test_an_update_of_all_leads_from_any_to_any(before: Limits, after: Limits) -> None:
    found = host_config(before, weight=True)
    # As Docker does: what is 0 or empty in an update stays.
    merged = {**found, **{key: value for key, value in update_body(after, KEYS, found).items() if value}}
    assert limits_of(merged, weight=True) == after


def test_lifting_is_by_values_that_limit_nothing() -> None:
    body = update_body(Limits(), KEYS, {})
    assert all(value not in (0, "") for value in body.values())
    assert limits_of(body, weight=True) == Limits()


def test_only_what_is_to_change_is_in_the_update() -> None:
    assert update_body(Limits(cpus=2.0, pids=5), frozenset({"pids"}), {}) == {"PidsLimit": 5}
    both = update_body(Limits(memory=1 << 28, swap=1 << 20), frozenset({"memory"}), {})
    assert both == {"Memory": 1 << 28, "MemorySwap": (1 << 28) + (1 << 20)}


def test_a_container_made_with_a_number_of_cpus_keeps_numbers() -> None:
    body = update_body(Limits(cpus=1.5), frozenset({"cpus"}), {"NanoCpus": 10**9})
    assert {key: value for key, value in body.items() if value} == {"NanoCpus": 15 * 10**8}
    body = update_body(Limits(), frozenset({"cpus"}), {"NanoCpus": 10**9})
    assert body["NanoCpus"] == 8 * 10**9


def test_swap_needs_memory() -> None:
    with pytest.raises(Invalid) as raised:
        host_config(Limits(swap=0), weight=True)
    assert raised.value.code == "swap_without_memory"


def test_in_v2_the_weight_is_not_dockers() -> None:
    assert "CpuShares" not in host_config(Limits(cpu_weight=50), weight=False)
    assert limits_of({"CpuShares": 512}, weight=False).cpu_weight is None
    assert limits_of({"CpuShares": 512}, weight=True).cpu_weight == 50
