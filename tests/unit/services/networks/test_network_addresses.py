"""Reservations: one owner for each address and MAC, whoever asks, however many at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.domain.errors import Conflict
from triune.services.networks.addresses import Addresses
from triune.services.networks.settings import divide
from triune.store import SqliteStore

SUBNET = "10.87.0.0/16"
TINY = "192.168.87.0/26"


def none(_mac: str) -> Collection[str]:
    return ()


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[Addresses]:
    store = SqliteStore(tmp_path / "db")
    yield Addresses(store)
    store.close()


def test_a_reservation_is_repeatable_and_the_same_in_another_life(addresses: Addresses) -> None:
    first = addresses.reserve("net", SUBNET, "web", none)
    assert addresses.reserve("net", SUBNET, "web", none) == first
    addresses.release("web")
    assert addresses.reserve("net", SUBNET, "web", none) == first


def test_a_mac_that_is_given_is_taken_or_refused(addresses: Addresses) -> None:
    mac = "00:50:56:00:00:01"
    assert addresses.reserve("net", SUBNET, "web", none, mac).mac == mac
    assert addresses.reserve("net", SUBNET, "web", none, mac).mac == mac, "it holds it"
    with pytest.raises(Conflict) as caught:
        addresses.reserve("net", SUBNET, "other", none, mac)
    assert caught.value.code == "mac_taken"
    assert "web" in caught.value.message
    addresses.release("web")
    assert addresses.reserve("net", SUBNET, "other", none, mac).mac == mac


def test_the_mac_is_local_and_unicast(addresses: Addresses) -> None:
    mac = addresses.reserve("net", SUBNET, "web", none).mac
    assert int(mac.split(":")[0], 16) & 3 == 2


def test_addresses_of_others_are_avoided(addresses: Addresses) -> None:
    first = addresses.reserve("net", SUBNET, "web", none)
    addresses.release("web")
    second = addresses.reserve("net", SUBNET, "web", lambda _mac: {first.address})
    assert second.address != first.address
    assert second.mac == first.mac


def test_many_at_once_share_nothing(addresses: Addresses) -> None:
    names = [f"i{number % 30}" for number in range(90)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda name: addresses.reserve("net", TINY, f"x{int(name[1:]) % 20}", none), names))
    by_name = {one.instance: one for one in found}
    assert len(by_name) == 20
    assert len({one.address for one in by_name.values()}) == 20
    assert len({one.mac for one in by_name.values()}) == 20
    assert all(one == by_name[one.instance] for one in found)


def test_a_full_network_says_so_and_has_room_again_after_a_release(addresses: Addresses) -> None:
    size = divide(TINY).size
    for number in range(size):
        addresses.reserve("net", TINY, f"i{number}", none)
    with pytest.raises(Conflict, match="has no free address left"):
        addresses.reserve("net", TINY, "late", none)
    freed = addresses.release("i3")
    assert freed is not None
    assert addresses.reserve("net", TINY, "late", none).address == freed.address


def test_another_network_is_a_conflict(addresses: Addresses) -> None:
    addresses.reserve("net", SUBNET, "web", none)
    with pytest.raises(Conflict, match="web has an address in network net, not other"):
        addresses.reserve("other", TINY, "web", none)


def test_a_rename_keeps_both_and_frees_the_name(addresses: Addresses) -> None:
    before = addresses.reserve("net", SUBNET, "web", none)
    addresses.mark_registered("web")
    after = addresses.rename("web", "shop")
    assert after is not None
    assert (after.mac, after.address, after.registered) == (before.mac, before.address, True)
    again = addresses.reserve("net", SUBNET, "web", none)
    assert again.mac != before.mac
    assert again.address != before.address
    assert addresses.rename("gone", "shop") == after


_STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "release", "rename"]), st.integers(0, 6), st.integers(0, 6)), max_size=40
)


@settings(max_examples=40, deadline=None)
@given(_STEPS)
def test_whatever_happens_nobody_shares_and_nothing_leaks(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    store = SqliteStore(tmp_path_factory.mktemp("store") / "db")
    addresses = Addresses(store)
    for verb, one, other in steps:
        if verb == "reserve":
            addresses.reserve("net", TINY, f"i{one}", none)
        elif verb == "release":
            addresses.release(f"i{one}")
        elif addresses.get(f"i{other}") is None:
            addresses.rename(f"i{one}", f"i{other}")
    held = addresses.all()
    assert len({one.address for one in held}) == len({one.mac for one in held}) == len(held)
    assert len(store.scan("networks/address/")) == len(store.scan("networks/mac/")) == len(held)
    part = divide(TINY)
    assert all(part.first <= ipaddress.IPv4Address(one.address) <= part.last for one in held)
    store.close()


@given(st.integers(8, 26))
def test_the_parts_of_a_subnet_do_not_overlap(length: int) -> None:
    network = ipaddress.IPv4Network(f"10.0.0.0/{length}")
    part = divide(str(network))
    first, last = (ipaddress.IPv4Address(one) for one in part.dynamic)
    docker = list(network.subnets(prefixlen_diff=2))[-1]
    assert network.network_address + 1 == ipaddress.IPv4Address(part.gateway) < part.first <= part.last
    assert part.last + 1 == first < last
    assert last + 1 == docker.network_address
