"""Token buckets on one end of a card, measured with TCP in both directions, on a host of their own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pytest

from tests.live import rates
from tests.live.netlab import private_host, sh
from triune.domain.errors import Failed
from triune.host import net, tc
from triune.host.tc import Rates

pytestmark = [
    pytest.mark.alone,
    pytest.mark.live,
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

BRIDGE, PORT, SPACE = "tshape0", "tshape-v", "tshape-in"
HOST, GUEST = "10.230.0.1", "10.230.0.2"
M = 10**6


@pytest.fixture(autouse=True)
def card() -> Iterator[None]:
    """A bridge with an address, and an instance's card on it."""
    with private_host():
        sh("ip", "netns", "del", SPACE, check=False)
        sh("ip", "netns", "add", SPACE)
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
        sh("ip", "addr", "add", f"{HOST}/24", "dev", BRIDGE)
        sh("ip", "link", "set", BRIDGE, "up")
        sh("ip", "link", "add", PORT, "type", "veth", "peer", "name", "eth0", "netns", SPACE)
        sh("ip", "link", "set", PORT, "master", BRIDGE, "up")
        sh("ip", "-n", SPACE, "addr", "add", f"{GUEST}/24", "dev", "eth0")
        sh("ip", "-n", SPACE, "link", "set", "eth0", "up")
        yield
        sh("ip", "netns", "del", SPACE)


def peer(mode: str, seconds: float = 1) -> list[str]:
    return ["ip", "netns", "exec", SPACE, sys.executable, rates.__file__, mode, HOST, "{port}", str(seconds)]


def up(seconds: float = 1) -> float:
    return rates.upload(HOST, peer("send", seconds)).rate


def down(seconds: float = 1) -> float:
    return rates.download(HOST, peer("receive"), seconds)


def links() -> set[str]:
    return {row["ifname"] for row in json.loads(sh("ip", "-j", "link", "show"))}


@pytest.mark.parametrize("rate", [2 * M, 500 * M])
def test_each_direction_keeps_to_its_own_rate(rate: int) -> None:
    assert tc.shape(PORT, Rates(towards=rate))
    # At the lower rate a segment of 64 KiB takes a quarter of a second: one more or less must not count.
    assert 0.85 * rate < down(4) < 1.15 * rate
    assert up() > 1.5 * rate
    assert tc.shape(PORT, Rates(back=rate))
    assert 0.85 * rate < up(4) < 1.15 * rate
    assert down() > 1.5 * rate
    assert tc.shape(PORT, Rates(towards=rate, back=2 * rate))
    assert tc.read(PORT) == Rates(towards=rate, back=2 * rate)
    assert not tc.shape(PORT, Rates(towards=rate, back=2 * rate))
    tc.clear(PORT)
    assert tc.read(PORT) == Rates()
    assert up() > 4 * rate


def test_it_leaves_nothing_and_spares_what_others_set() -> None:
    before = sh("tc", "qdisc", "show"), links()
    tc.clear(PORT)
    tc.shape(PORT, Rates(towards=M, back=M))
    tc.clear(PORT)
    assert (sh("tc", "qdisc", "show"), links()) == before
    sh("tc", "qdisc", "add", "dev", PORT, "root", "tbf", "rate", "9mbit", "burst", "9kb", "latency", "9ms")
    sh("tc", "qdisc", "add", "dev", PORT, "clsact")
    filters = ("tc", "filter", "add", "dev", PORT, "ingress", "pref", "7", "protocol", "ip", "u32")
    sh(*filters, "match", "ip", "dport", "9", "0xffff", "flowid", ":1")
    theirs = sh("tc", "qdisc", "show"), sh("tc", "filter", "show", "dev", PORT, "ingress")
    tc.shape(PORT, Rates(back=5 * M))
    assert tc.read(PORT) == Rates(back=5 * M)
    assert up() < 6 * M
    tc.clear(PORT)
    assert (sh("tc", "qdisc", "show"), sh("tc", "filter", "show", "dev", PORT, "ingress")) == theirs


def test_the_device_of_an_interface_that_is_gone_is_swept() -> None:
    tc.shape(PORT, Rates(back=M))
    device = tc.helper(net.link(PORT).index)
    assert net.link(device) is not None
    assert tc.sweep() == []
    sh("ip", "link", "del", PORT)
    assert tc.sweep() == [device]
    assert net.link(device) is None
    tc.clear(PORT)
    with pytest.raises(Failed) as caught:
        tc.shape(PORT, Rates(back=M))
    assert caught.value.code == "no_interface"
    assert caught.value.hint


def test_this_host_can_and_the_trial_leaves_nothing() -> None:
    before = links()
    assert tc.why_not() == ""
    assert links() == before
