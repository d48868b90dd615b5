"""The hash of a name in a VMFS6 folder: Bob Jenkins' lookup8 (1997, public domain) over a padded and salted key."""

from __future__ import annotations

from struct import pack, unpack

_ALL = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C13
_SALT = 0x739A75C28E61B017
_SHIFTS = (43, -9, 8, 38, -23, 5, 35, -49, 11, 12, -18, 22)
SLOTS, ROOT_SLOTS = 16001, 15973


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    state = [a, b, c]
    for number, shift in enumerate(_SHIFTS):
        mine, one, two = number % 3, (number + 1) % 3, (number + 2) % 3
        turned = state[two] >> shift if shift > 0 else (state[two] << -shift) & _ALL
        state[mine] = ((state[mine] - state[one] - state[two]) & _ALL) ^ turned
    return state[0], state[1], state[2]


def lookup8(words: tuple[int, ...], seed: int) -> int:
    """The 64-bit hash of 64-bit words."""
    a, b, c = seed, seed, _GOLDEN
    at = 0
    while len(words) - at >= 3:
        a, b, c = (a + words[at]) & _ALL, (b + words[at + 1]) & _ALL, (c + words[at + 2]) & _ALL
        a, b, c = _mixed(a, b, c)
        at += 3
    c = (c + len(words)) & _ALL  # ESXi adds words here, not bytes
    rest = words[at:]
    if len(rest) > 1:
        b = (b + rest[1]) & _ALL
    if rest:
        a = (a + rest[0]) & _ALL
    return _mixed(a, b, c)[2]


def name_hash(name: str) -> int:
    """A name's hash: its low 32 bits are in the entry, modulo the number of slots it is the slot."""
    raw = name.encode()
    key = bytearray(raw.ljust(256, b"\0"))
    for at in range((len(raw) + 8) & ~7, 127, 8):
        key[at : at + 8] = pack("<Q", _SALT)
    return lookup8(unpack("<32Q", key), 42)
