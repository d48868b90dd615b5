"""The demultiplexer of Docker's output."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from triune.engines.docker.frames import Demultiplexer

frames = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20)


def encode(parts: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for stream, data in parts)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def joined(parts: list[tuple[int, bytes]], stream: int) -> bytes:
    return b"".join(data for number, data in parts if number == stream)


@given(frames, st.lists(st.integers(min_value=0, max_value=10_000), max_size=30))
def test_any_cutting_gives_the_same_streams(parts: list[tuple[int, bytes]], cuts: list[int]) -> None:
    demultiplexer = Demultiplexer()
    found = [part for piece in pieces(encode(parts), cuts) for part in demultiplexer.feed(piece)]
    for stream in (1, 2):
        assert joined(found, stream) == joined(parts, stream)
    assert all(data for _, data in found)


@given(frames, st.binary(min_size=1).filter(lambda data: data[0] > 3), st.lists(st.integers(0, 10_000), max_size=9))
def test_text_without_header_goes_to_stderr(parts: list[tuple[int, bytes]], text: bytes, cuts: list[int]) -> None:
    demultiplexer = Demultiplexer()
    found = [part for piece in pieces(encode(parts) + text, cuts) for part in demultiplexer.feed(piece)]
    assert joined(found, 1) == joined(parts, 1)
    assert joined(found, 2) == joined(parts, 2) + text


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_nonsense_never_raises_nor_grows(data: list[bytes]) -> None:
    demultiplexer = Demultiplexer()
    found = [part for piece in data for part in demultiplexer.feed(piece)]
    assert sum(len(payload) for _, payload in found) <= sum(map(len, data))


def test_the_engines_own_errors_are_stderr() -> None:
    assert Demultiplexer().feed(bytes([3, 0, 0, 0, 0, 0, 0, 2]) + b"no") == [(2, b"no")]
