"""dnsmasq's arguments and files."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.host import dnsmasq


def service(folder: Path, **changes: str) -> dnsmasq.Service:
    values = {"bridge": "br0", "subnet": "10.87.0.0/16", "gateway": "10.87.0.1", "domain": "t.internal"} | changes
    return dnsmasq.Service(folder=folder, dynamic=("10.87.128.0", "10.87.191.255"), **values)


@pytest.mark.parametrize(
    ("subnet", "zones"),
    [
        ("10.87.0.0/16", ["87.10.in-addr.arpa"]),
        ("192.168.87.0/24", ["87.168.192.in-addr.arpa"]),
        ("172.16.4.0/23", ["4.16.172.in-addr.arpa", "5.16.172.in-addr.arpa"]),
        ("192.168.87.64/26", ["87.168.192.in-addr.arpa"]),
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
    ],
)
def test_reverse_zones(subnet: str, zones: list[str]) -> None:
    assert dnsmasq.reverse_zones(ipaddress.IPv4Network(subnet)) == zones


@pytest.mark.parametrize("change", [{"domain": "a\nb"}, {"bridge": "br0\n"}, {"bridge": "x" * 16}])
def test_arguments_refuse_what_is_no_value(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        service(tmp_path, **change).argv()


def test_no_configuration_of_the_host_is_read(tmp_path: Path) -> None:
    words = service(tmp_path).argv()
    assert "--conf-file=" in words
    assert "--no-hosts" in words
    assert "--except-interface=lo" in words


def test_hosts_are_written_once_and_kept_exactly(tmp_path: Path) -> None:
    one = service(tmp_path / "net")
    dnsmasq.prepare(one)
    web = ("10.87.0.10", ("web.t.internal", "web"), "02:00:00:00:00:01")
    assert dnsmasq.sync_hosts(one, {"web": web})
    assert not dnsmasq.sync_hosts(one, {"web": web})
    assert (one.names_folder / "web").read_text() == "10.87.0.10 web.t.internal web\n"
    assert (one.reservations_folder / "web").read_text() == "02:00:00:00:00:01,10.87.0.10,web,3600\n"
    (one.names_folder / ".draft").write_text("left by a crash")
    assert dnsmasq.sync_hosts(one, {})
    assert not list(one.names_folder.iterdir())
    dnsmasq.remove_host(one, "web")


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_is_written_is_one_line_in_its_folder(
    tmp_path_factory: pytest.TempPathFactory, key: str, name: str
) -> None:
    one = service(tmp_path_factory.mktemp("net"))
    dnsmasq.prepare(one)
    try:
        dnsmasq.write_host(one, key, "10.87.0.10", (f"{name}.t", name), "02:00:00:00:00:01")
    except (Invalid, ValueError):
        assert not [path for path in one.folder.rglob("*") if path.is_file()]
        return
    for folder in (one.names_folder, one.reservations_folder):
        (file,) = folder.iterdir()
        assert len(file.read_text().splitlines()) == 1


def test_leases(tmp_path: Path) -> None:
    one = service(tmp_path)
    later, past = int(time.time()) + 100, int(time.time()) - 100
    one.leases_file.write_text(
        f"{later} 02:00:00:00:00:01 10.87.0.10 web ff:00:01\n{past} 02:00:00:00:00:02 10.87.0.11 old *\n"
        f"0 02:00:00:00:00:03 10.87.0.12 * *\nnonsense\n{later} 02:00:00:00:00:04 10.87.0.13 half ff:00:0"
    )
    assert dnsmasq.leases(one) == [
        dnsmasq.Lease("10.87.0.10", "02:00:00:00:00:01", b"\xff\x00\x01"),
        dnsmasq.Lease("10.87.0.12", "02:00:00:00:00:03", b""),
        dnsmasq.Lease("10.87.0.13", "02:00:00:00:00:04", b""),
    ]


def test_a_foreign_process_is_not_taken_for_the_server(tmp_path: Path) -> None:
    one = service(tmp_path)
    one.pid_file.write_text("1\n")
    assert dnsmasq.running(one) is None
    dnsmasq.stop(one)
    one.pid_file.write_text("not a number")
    assert dnsmasq.running(one) is None


def test_a_folder_its_user_cannot_reach_is_noticed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    one = service(closed / "net")
    dnsmasq.prepare(one)
    closed.chmod(0o700)
    assert not dnsmasq.reachable(one)
