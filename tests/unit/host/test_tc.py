"""Token buckets in tc's words."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from triune.host import tc


@given(st.integers(0, 10**13))
def test_a_bucket_holds_a_packet_and_its_queue_more(rate: int) -> None:
    kind, *words = tc.bucket(rate)
    found = dict(zip(words[::2], words[1::2], strict=True))
    assert kind == "tbf"
    speed = int(found["rate"].removesuffix("bit"))
    assert tc.SLOWEST <= speed <= tc.FASTEST
    burst, limit = (int(found[key].removesuffix("b")) for key in ("burst", "limit"))
    assert burst >= 8192
    assert limit - burst >= 32768
    assert burst * 8 <= max(speed * 0.0041, 8 * 8192)


@given(st.integers(1, 2**31 - 1))
def test_the_helper_is_named_after_the_interface(index: int) -> None:
    name = tc.helper(index)
    assert len(name) <= 15
    assert re.fullmatch(r"tri-ifb[0-9a-f]+", name)
    assert int(name.removeprefix("tri-ifb"), 16) == index


def test_no_rates_are_false() -> None:
    assert not tc.Rates()
    assert tc.Rates(back=1)
