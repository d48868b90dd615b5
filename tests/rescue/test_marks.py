"""What is found in chunks: quick screening loses nothing."""

from __future__ import annotations

import random
import struct
from mmap import mmap

import pytest

from triune.services.rescue import marks
from triune.services.rescue.marks import SECTOR
from triune.services.rescue.session import Mark

_CHUNK = 256 << 10


def _found(chunk: bytes) -> list[Mark]:
    return list(marks.find(chunk, 0, len(chunk)))


@pytest.mark.parametrize("filling", ["zeros", "random"])
def test_every_word_in_front_of_a_sector_is_looked_at(filling: str) -> None:
    chance = random.Random(filling)
    sectors = _CHUNK // SECTOR
    for word in marks._WORDS:
        chunk = bytearray(_CHUNK if filling == "zeros" else chance.randbytes(_CHUNK))
        places = {0, sectors - 1, chance.randrange(sectors)}
        for place in places:
            struct.pack_into("<I", chunk, place * SECTOR, word)
        looked_at = set(marks._promising(bytes(chunk), _CHUNK))
        assert {place * SECTOR for place in places} <= looked_at


def test_screening_leaves_little_of_zeros_and_of_random_bytes() -> None:
    assert not list(marks._promising(bytes(_CHUNK), _CHUNK))
    chunk = random.Random(1).randbytes(4 << 20)
    assert len(list(marks._promising(chunk, len(chunk)))) < 100


def test_all_kinds_of_marks_are_found_in_order_of_their_search() -> None:
    chunk = bytearray(3 * 65536)
    struct.pack_into("<IQ", chunk, 0x200, 0x10C00001, 0x4200)
    chunk[0x600:0x610] = b'.encoding = "UTF'
    struct.pack_into("<7I", chunk, 0x1000, 32, 16, 0x10000, 2048, 1 << 20, 5, 6)
    chunk[0x2008:0x200C], chunk[0x2020:0x2024] = b"\0\0\1\0", b"dmfr"
    chunk[0x3008:0x300C] = b"\0\0\1\0"  # neither
    chunk[0x1000A + 0x1000] = 1
    for boot in (0, 65536):
        chunk[boot + 510 : boot + 512] = b"\x55\xaa"
    chunk[131072 + 510] = 0x55
    assert _found(bytes(chunk)) == [
        Mark(0x200, "fd", 0x4200),
        Mark(0x600, "text-vmx"),
        Mark(0x1000, "resource5"),
        Mark(0x2000, "resource6"),
        Mark(0, "boot"),
        Mark(65536, "boot"),
    ]


def test_only_the_bytes_that_were_read_are_looked_at() -> None:
    lock = struct.pack("<IQ", 0x10C00001, 0x4200)
    buffer = mmap(-1, 65536)
    for sector in range(128):
        buffer[sector * SECTOR : sector * SECTOR + len(lock)] = lock
    assert [mark.at for mark in marks.find(buffer, 8192, 3 * SECTOR + 100)] == [8192, 8704, 9216]
    assert not list(marks.find(buffer, 0, 511))
    assert not list(marks.find(buffer, 0, 0))
