"""The one check of the final configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.network import Publish, parse_publish
from triune.domain.units import format_duration, format_size, parse_cpus, parse_duration, parse_size
from triune.services.instances import policy

GOOD = InstanceSpec(name="web", image="debian/12", engine="lxc")


def test_a_plain_spec_passes() -> None:
    policy.check(replace(GOOD, memory=2**28, cpus=1.5, env={"A": "b"}, command=("sh", "-c", "a\nb")))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "Web"}, "bad_name"),
        ({"name": "-a"}, "bad_name"),
        ({"name": "a" * 64}, "bad_name"),
        ({"name": ""}, "bad_name"),
        ({"name": "a\nb"}, "bad_name"),
        ({"name": "localhost"}, "bad_name"),
        ({"env": {"A": "x\nlxc.idmap = u 0 0 1"}}, "control_character"),
        ({"env": {"A=B": "x"}}, "bad_env"),
        ({"env": {"": "x"}}, "bad_env"),
        ({"env": {"A B": "x"}}, "bad_env"),
        ({"settings": {"cpu": "host\x00"}}, "control_character"),
        ({"settings": {"cpu": "host\udcff"}}, "not_unicode"),
        ({"volumes": (VolumeMount(source="/a", target="b"),)}, "bad_volume"),
        ({"volumes": (VolumeMount(source="/a", target="/b/../../c"),)}, "bad_volume"),
        ({"volumes": (VolumeMount(source="/a\n", target="/b"),)}, "control_character"),
        ({"volumes": (VolumeMount(source="/no/such/folder", target="/b"),)}, "volume_missing"),
        ({"memory": 2**60}, "memory_exceeds_host"),
        ({"memory": 512}, "memory_too_small"),
        ({"cpus": 4096.0 * 17}, "cpus_exceed_host"),
        ({"disk": 10}, "disk_too_small"),
        ({"disk": 2**57}, "disk_too_large"),
        ({"publish": (Publish(host_port=80, guest_port=1), Publish(host_port=80, guest_port=2))}, "bad_publish"),
        ({"command": ("a\0b",)}, "control_character"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], code: str) -> None:
    with pytest.raises(Invalid) as caught:
        policy.check(replace(GOOD, **change))
    assert caught.value.code == code
    assert caught.value.hint


@given(st.text(max_size=80))
def test_a_name_that_passes_is_a_dns_label(name: str) -> None:
    try:
        policy.check(replace(GOOD, name=name))
    except Invalid:
        return
    assert 1 <= len(name) <= 63
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not name.startswith("-")
    assert not name.endswith("-")


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 512 * 2**20), ("10GB", 10**10), ("1.5g", 1536 * 2**20), ("4096", 4096), ("1k", 1024), ("2 TiB", 2**41)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.text(max_size=20))
def test_sizes_cpus_durations_and_ports_never_fail_otherwise_than_as_invalid(text: str) -> None:
    for parse in (parse_size, parse_cpus, parse_duration, parse_publish):
        try:
            value = parse(text)
        except Invalid as error:
            assert error.hint
        else:
            assert value is not None


@given(
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([None, "127.0.0.1"]),
)
def test_ports_read_back_as_they_are_written(host: int, guest: int, protocol: str, ip: str | None) -> None:
    port = Publish(host_port=host, guest_port=guest, protocol=protocol, host_ip=ip)
    assert parse_publish(str(port)) == port


def test_sizes_and_durations_for_people() -> None:
    assert [format_size(n) for n in (None, 0, 1023, 1536, 300 * 2**20, 5 * 2**40)] == [
        "-",
        "0 B",
        "1023 B",
        "1.5 KiB",
        "300 MiB",
        "5.0 TiB",
    ]
    assert [format_duration(s) for s in (None, 0.0124, 3.21, 130, 11_040, 200_000)] == [
        "-",
        "12 ms",
        "3.2 s",
        "2m 10s",
        "3h 4m",
        "2d 7h",
    ]
