"""The frame codec against its own encoder, in any slicing, and against nonsense."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed
from triune.engines.kvm.frames import MAX_PAYLOAD, Decoder, encode

TOKEN = b"0123456789abcdef"
FRAMES = st.lists(st.tuples(st.sampled_from([b"S", b"O", b"R", b"A", b"X"]), st.binary(max_size=300)), max_size=20)


def slices(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(FRAMES, st.lists(st.integers(min_value=0), max_size=30), st.binary(max_size=100))
def test_any_slicing_gives_the_same_frames(frames: list[tuple[bytes, bytes]], cuts: list[int], stale: bytes) -> None:
    stale = stale.replace(TOKEN[:1], b"")
    decoder = Decoder(TOKEN)
    got = []
    for piece in slices(stale + TOKEN + b"".join(encode(*frame) for frame in frames), cuts):
        got += decoder.feed(piece)
    assert got == frames
    assert decoder.greeted


@given(st.binary(max_size=2000))
def test_nonsense_ends_in_frames_or_in_one_error(data: bytes) -> None:
    decoder = Decoder(TOKEN)
    decoder.feed(TOKEN)
    try:
        frames = decoder.feed(data)
    except Failed as error:
        assert error.code == "bad_frame"
    else:
        assert sum(5 + len(payload) for _kind, payload in frames) <= len(data)


@given(st.binary(max_size=5000))
def test_nothing_is_kept_while_the_token_is_missing(data: bytes) -> None:
    decoder = Decoder(TOKEN)
    if TOKEN not in data:
        assert decoder.feed(data) == []
        assert len(decoder._buffer) < len(TOKEN)


@pytest.mark.parametrize("header", [struct.pack(">cI", b"O", MAX_PAYLOAD + 1), struct.pack(">cI", b"?", 1)])
def test_an_oversized_or_unknown_frame_is_refused(header: bytes) -> None:
    decoder = Decoder(TOKEN)
    with pytest.raises(Failed):
        decoder.feed(TOKEN + header)


def test_an_oversized_payload_is_not_sent() -> None:
    with pytest.raises(ValueError, match="128 KiB"):
        encode(b"I", b"x" * (MAX_PAYLOAD + 1))
