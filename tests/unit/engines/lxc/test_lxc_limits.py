"""Limits in LXC's configuration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.limits import Limits
from triune.engines.lxc import spec
from triune.engines.lxc.limit_items import items, read_items
from triune.engines.lxc.limits import rewritten
from triune.host.cgroup_limits import CONTROLLERS

ONE, TWO = (dict.fromkeys(CONTROLLERS.values(), version) for version in (1, 2))
TEXT = """\
# mine
lxc.uts.name = web
lxc.cgroup2.memory.max = 512M
lxc.cgroup.memory.limit_in_bytes = 512M
  lxc.cgroup2.pids.max=300

lxc.net.0.type = veth
"""

limits = st.builds(
    Limits,
    cpus=st.none() | st.floats(0.01, 64).map(lambda value: round(value, 2)),
    cpu_weight=st.none() | st.integers(1, 99),
    cpu_pin=st.sampled_from([None, "0", "0-3,6"]),
    memory=st.integers(1 << 22, 1 << 40),
    swap=st.none() | st.integers(0, 1 << 40),
    pids=st.none() | st.integers(1, 1 << 22),
)


@given(limits, st.sampled_from([ONE, TWO]))
def test_what_is_written_is_read(wanted: Limits, versions: dict[str, int]) -> None:
    text = rewritten(TEXT, wanted, set(wanted.by_key()) | {"swap", "pids"}, versions)
    assert read_items(spec.parse(text), versions) == wanted
    assert read_items(items(wanted, versions), versions) == wanted


@pytest.mark.parametrize("versions", [ONE, TWO])
def test_other_lines_stay_as_they_are(versions: dict[str, int]) -> None:
    text = rewritten(TEXT, Limits(), {"memory"}, versions)
    assert text == TEXT.replace("lxc.cgroup2.memory.max = 512M\nlxc.cgroup.memory.limit_in_bytes = 512M\n", "")
    assert rewritten(TEXT, Limits(cpus=2.0, pids=300), {"cpus"}, TWO) == TEXT + "lxc.cgroup2.cpu.max = 200000 100000\n"


def test_limits_of_the_disk_are_never_written_down() -> None:
    assert items(Limits(io_read=1 << 20, iops_write=5), TWO) == []
    assert rewritten(TEXT, Limits(io_read=1 << 20), {"io.read"}, TWO) == TEXT


def test_hand_written_sizes_are_read() -> None:
    assert read_items(spec.parse(TEXT), TWO) == Limits(memory=512 << 20, pids=300)
