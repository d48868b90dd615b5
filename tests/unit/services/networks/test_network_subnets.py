"""The choice of a subnet."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from triune.domain.errors import Conflict, Invalid
from triune.host import net
from triune.services.networks import subnets

CANDIDATES = ("10.87.0.0/16", "10.91.0.0/16", "192.168.87.0/24")


def used(*taken: str) -> list[tuple[ipaddress.IPv4Network, str]]:
    return [(ipaddress.IPv4Network(one), f"interface {one}") for one in taken]


def test_the_first_that_overlaps_nothing_is_taken() -> None:
    assert subnets.choose(CANDIDATES, list) == "10.87.0.0/16"
    assert subnets.choose(CANDIDATES, lambda: used("10.87.44.0/24")) == "10.91.0.0/16"
    assert subnets.choose(CANDIDATES, lambda: used("10.0.0.0/8")) == "192.168.87.0/24"


def test_when_all_are_taken_it_says_by_whom() -> None:
    with pytest.raises(Conflict, match=r"10\.87\.0\.0/16 \(interface 10\.0\.0\.0/8\)") as caught:
        subnets.choose(CANDIDATES, lambda: used("10.0.0.0/8", "192.168.0.0/16"))
    assert caught.value.code == "no_free_subnet"


def test_the_host_is_asked_for_everything_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("# nameserver 1.1.1.1\nnameserver 10.91.0.53\nnameserver ::1\nnameserver nonsense\n")
    (tmp_path / "lab.xml").write_text('<network><ip address="10.147.3.1" netmask="255.255.255.0"/></network>')
    (tmp_path / "broken.xml").write_text("<network>")
    monkeypatch.setattr(subnets, "_LIBVIRT_NETWORKS", tmp_path)
    ours, theirs = ipaddress.IPv4Interface("10.87.0.1/16"), ipaddress.IPv4Interface("172.17.0.1/16")
    monkeypatch.setattr(net, "addresses", lambda: {"triune0": [ours], "docker0": [theirs]})
    routes = [(ipaddress.IPv4Network("10.8.0.0/24"), "tun0"), (ipaddress.IPv4Network("10.87.0.0/16"), "triune0")]
    monkeypatch.setattr(net, "routes", lambda: iter(routes))
    found = {str(network): who for network, who in subnets.in_use("triune0", resolv)}
    assert found == {
        "172.17.0.0/16": "interface docker0",
        "10.8.0.0/24": "a route through tun0",
        "10.91.0.53/32": "name server 10.91.0.53",
        "10.147.3.0/24": "libvirt network lab",
    }


@pytest.mark.parametrize(
    "text", ["10.0.0.1/16", "8.8.8.0/24", "10.0.0.0/27", "10.0.0.0/7", "127.0.0.0/8", "x", "::/64"]
)
def test_what_is_no_subnet_for_us(text: str) -> None:
    with pytest.raises(Invalid, match="not a private IPv4 subnet"):
        subnets.checked(text)
