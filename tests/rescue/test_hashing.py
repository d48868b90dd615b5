"""The hashes of contents with holes, against the plain definition of each."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from triune.services.rescue.hashing import LEAF, Digest, Merkle, Sha256

PIECES = st.lists(
    st.one_of(st.binary(max_size=20), st.integers(0, 5 * LEAF), st.sampled_from([LEAF, 4 * LEAF, LEAF - 1])), max_size=6
)


def rfc6962(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, §2.1, word by word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + rfc6962(leaves[:split]) + rfc6962(leaves[split:])).digest()


@settings(max_examples=25, deadline=None)
@given(PIECES)
def test_equal_to_their_definitions(pieces: list[bytes | int]) -> None:
    digests: list[Digest] = [Sha256(), Merkle()]
    for digest in digests:
        for piece in pieces:
            digest.zeros(piece) if isinstance(piece, int) else digest.update(piece)
    whole = b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in pieces)
    leaves = [whole[at : at + LEAF] for at in range(0, len(whole), LEAF)]
    assert digests[0].hexdigest() == hashlib.sha256(whole).hexdigest()
    assert digests[1].hexdigest() == rfc6962(leaves).hex()


def test_a_large_hole_costs_nothing() -> None:
    one, other = Merkle(), Merkle()
    one.zeros(60 << 40)
    one.update(b"end")
    for _ in range(60):
        other.zeros((1 << 40) - 12345)
        other.zeros(12345)
    other.update(b"end")
    assert one.hexdigest() == other.hexdigest()
