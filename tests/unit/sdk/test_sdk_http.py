"""The SDK's own HTTP reader: whatever the pieces in which a response comes, and whatever nonsense."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.sdk.http import MAX_HEAD, ProtocolError, Response


def receiver(data: bytes, sizes: list[int]):
    """`recv` that gives at most the next size of bytes."""
    position = 0
    turns = iter(sizes)

    def receive(limit: int) -> bytes:
        nonlocal position
        size = min(limit, next(turns, 7))
        piece = data[position : position + size]
        position += len(piece)
        return piece

    return receive


def parsed(data: bytes, sizes: list[int] | None = None) -> tuple[int, dict[str, str], bytes]:
    response = Response(receiver(data, sizes or []), lambda: None)
    return response.status, response.headers, response.read(10_000_000)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    out, at = b"", 0
    for size in [*sizes, len(body)]:
        piece = body[at : at + size]
        at += len(piece)
        if piece:
            out += f"{len(piece):x};ext=1\r\n".encode() + piece + b"\r\n"
    return out + b"0\r\nTrailer: x\r\n\r\n"


SIZES = st.lists(st.integers(1, 50), max_size=40)


@given(st.binary(max_size=400), SIZES, SIZES, st.sampled_from(["length", "chunked", "end"]))
def test_a_body_is_the_same_in_whatever_pieces(body: bytes, cuts: list[int], sizes: list[int], framing: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Thing:  a b \r\n"
    if framing == "length":
        data = head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    elif framing == "chunked":
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, cuts)
    else:
        data = head + b"\r\n" + body
    status, headers, found = parsed(data, sizes)
    assert (status, headers["x-thing"], found) == (200, "a b", body)


@given(st.binary(max_size=600), SIZES)
def test_nonsense_is_a_protocol_error(data: bytes, sizes: list[int]) -> None:
    with pytest.raises(ProtocolError):
        parsed(b"x" + data, sizes)


@given(st.binary(max_size=200))
def test_nonsense_after_a_good_head_never_breaks_out(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parsed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 3\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (MAX_HEAD + 10) + b"\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parsed(data)


def test_a_body_beyond_the_limit_is_refused() -> None:
    response = Response(receiver(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 100, []), lambda: None)
    with pytest.raises(ProtocolError, match="longer than 10 bytes"):
        response.read(10)


def test_interim_responses_are_skipped_and_no_content_has_none() -> None:
    assert parsed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nrest") == (204, {}, b"")
