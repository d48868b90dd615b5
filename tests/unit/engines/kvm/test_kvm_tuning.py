"""Limits written into a domain's XML are read from it again, and lifted without a trace."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engines.kvm.plans import EMULATED, FILES, plan

from triune.domain.limits import Limits, format_cpu_list
from triune.engines.kvm import tuning
from triune.engines.kvm.limits import missing
from triune.engines.kvm.spec import build

rate = st.none() | st.integers(1, 2**40)
LIMITS = st.builds(
    Limits,
    cpus=st.integers(1, 800).map(lambda hundredths: hundredths / 100),
    cpu_weight=st.none() | st.integers(1, 10000).filter(lambda weight: weight != 100),
    cpu_pin=st.none() | st.sets(st.integers(0, 100), min_size=1).map(format_cpu_list),
    memory=st.integers(32, 2**20).map(lambda mib: mib * 2**20),
    io_read=rate,
    io_write=rate,
    iops_read=rate,
    iops_write=rate,
)


def domain() -> ET.Element:
    return ET.fromstring(build(plan(user_data="#cloud-config\n"), FILES, EMULATED))


@given(LIMITS, st.sampled_from([1, 2, None]))
def test_what_is_set_is_read_and_can_be_lifted(limits: Limits, version: int | None) -> None:
    root = domain()
    plain = ET.tostring(root)
    tuning.tune(root, limits, tuning.KEYS, version)
    assert tuning.read(root, version) == limits
    once = ET.tostring(root)
    tuning.tune(root, limits, tuning.KEYS, version)
    assert ET.tostring(root) == once
    tuning.tune(root, Limits(cpus=1, memory=512 * 2**20), tuning.KEYS, version)
    assert tuning.read(root, version) == Limits(cpus=1, memory=512 * 2**20)
    if tuning.vcpus(limits.cpus) <= EMULATED.cpus:
        assert ET.canonicalize(ET.tostring(root), strip_text=True) == ET.canonicalize(plain, strip_text=True)


def test_only_the_named_keys_are_touched() -> None:
    root = domain()
    tuning.tune(root, Limits(io_read=7, cpus=0.5), {"io.read", "cpus"}, 1)
    tuning.tune(root, Limits(io_write=9), {"io.write"}, 1)
    found = tuning.read(root, 1)
    assert (found.io_read, found.io_write, found.cpus) == (7, 9, 0.5)
    tuned = [
        disk.find("target").get("dev") for disk in root.iterfind("devices/disk") if disk.find("iotune") is not None
    ]
    assert tuned == ["vda"]  # not the read-only seed


def test_a_disk_plugged_in_later_shares_the_rate() -> None:
    root = domain()
    later, read_only = ET.fromstring("<disk/>"), ET.fromstring("<disk><readonly/></disk>")
    tuning.throttle_too(root, later)
    assert len(later) == 0
    tuning.tune(root, Limits(io_read=7), {"io.read"}, 1)
    tuning.throttle_too(root, later)
    tuning.throttle_too(root, read_only)
    assert (later.findtext("iotune/read_bytes_sec"), later.findtext("iotune/group_name")) == ("7", "triune")
    assert read_only.find("iotune") is None


def test_what_others_set_gives_way() -> None:
    root = ET.fromstring(
        "<domain><memory unit='GiB'>2</memory><currentMemory unit='MiB'>512</currentMemory>"
        "<vcpu placement='auto' cpuset='0-3' current='2'>4</vcpu>"
        "<vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/></vcpus>"
        "<cputune><shares>512</shares><period>100000</period><quota>25000</quota><vcpupin vcpu='0' cpuset='1'/>"
        "<emulatorpin cpuset='2'/></cputune><devices><disk device='disk'><target dev='vda'/>"
        "<iotune><total_bytes_sec>5</total_bytes_sec><write_iops_sec>3</write_iops_sec></iotune></disk></devices>"
        "</domain>"
    )
    assert tuning.read(root, 1) == Limits(cpus=0.5, cpu_weight=50, cpu_pin="0-3", memory=512 * 2**20, iops_write=3)
    tuning.tune(root, Limits(cpus=3, cpu_pin="1", io_read=8, memory=2**30), {"cpus", "cpu.pin", "io.read", "memory"}, 1)
    assert tuning.read(root, 1) == Limits(cpus=3, cpu_weight=50, cpu_pin="1", memory=2**30, iops_write=3, io_read=8)
    assert tuning.most_memory(root) == 2**30
    assert root.find("vcpu").attrib == {"current": "3", "cpuset": "1"}
    assert [child.tag for child in root.find("cputune")] == ["shares"]
    assert root.find("devices/disk/iotune/total_bytes_sec") is None


@pytest.mark.parametrize(
    ("count", "host", "most"), [(1, 2, 2), (1, 64, 8), (4, 64, 16), (3, 2, 3), (64, 128, 128), (1, 1, 1)]
)
def test_room_for_more_vcpus(count: int, host: int, most: int) -> None:
    assert tuning.most_vcpus(count, host) == most


def test_a_missing_controller_takes_the_weight_only() -> None:
    assert set(missing(None)) - set(missing(1)) == {"limiting.cpu.weight"}


@pytest.mark.parametrize(
    ("cpus", "topology"),
    [
        (4, {"sockets": "2", "cores": "2", "threads": "1"}),
        (2, {"sockets": "2", "cores": "2", "threads": "1"}),
        (6, {"sockets": "3", "cores": "2", "threads": "1"}),
        (5, {"sockets": "5", "cores": "1", "threads": "1"}),
    ],
)
def test_more_cpus_than_a_machine_has_sockets_for(cpus: int, topology: dict[str, str]) -> None:
    root = ET.fromstring(
        '<domain><vcpu>4</vcpu><cpu mode="maximum"><topology sockets="2" cores="2" threads="1"/></cpu></domain>'
    )
    tuning.tune(root, Limits(cpus=cpus), frozenset({"cpus"}), None)
    assert root.find("cpu/topology").attrib == topology
