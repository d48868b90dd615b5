"""Journals: after-images of the metadata that a host changed last, names of deleted files among them.

VMFS5: a file block for each host. A record is a header of 32 bytes and the image. VMFS6: a slot of `.jbc.sf` for each
host, in blocks of 4 KiB with a head each; an image that does not fit goes on behind the next block's head. What the
checksums are made of is not known: whoever uses an image checks what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from triune.disks.vmfs.geometry import MOST_BYTES, Geometry

_RECORD = Struct("<IIQQII")
_MOST_IMAGE = 1 << 17
_BLOCK = 4096
_HEAD = Struct("<4sHHQQQ")
_HEAD_MARK = b"TO6J"
_ACTION = Struct("<IQIIIIIII")  # kind, place, length, …, where the image begins, how much of it is in that block
_ACTION_SIZE = 0x38
_WRITE = 0x104


@dataclass(frozen=True, slots=True)
class AfterImage:
    """`data` was to be written at `place` of the volume. `at` is where it stands in the journal; `transaction` counts
    up, 0 where it is not known."""

    place: int
    data: bytes
    at: int
    transaction: int = 0


def after_images(journal: bytes, geometry: Geometry) -> Iterator[AfterImage]:
    """Every image in a host's journal that is whole, in the order they stand. Old ones may be among them."""
    return _wide(journal) if geometry.wide else _narrow(journal)


def _narrow(journal: bytes) -> Iterator[AfterImage]:
    at = 0
    while (at := journal.find(b"\1\0\0\0", at)) >= 0 and at + _RECORD.size <= len(journal):
        image = _record(journal, at) if at % 4 == 0 else None
        if image is None:
            at += 1
            continue
        yield image
        at = image.at + len(image.data)


def _record(journal: bytes, at: int) -> AfterImage | None:
    _, _, none, place, length, nothing = _RECORD.unpack_from(journal, at)
    begin = at + _RECORD.size
    if none or nothing or not place or place % 512 or place > MOST_BYTES:
        return None
    if not 0 < length <= _MOST_IMAGE or length % 512 or begin + length > len(journal):
        return None
    return AfterImage(place, journal[begin : begin + length], begin)


def _wide(journal: bytes) -> Iterator[AfterImage]:
    for block in range(0, len(journal) - _BLOCK + 1, _BLOCK):
        mark, _, _, _, _, transaction = _HEAD.unpack_from(journal, block)
        if mark != _HEAD_MARK or not transaction:
            continue
        for at in range(block + _HEAD.size, block + _BLOCK - _ACTION_SIZE, 8):
            image = _action(journal, at, transaction)
            if image is not None:
                yield image


def _action(journal: bytes, at: int, transaction: int) -> AfterImage | None:
    kind, place, length, _, _, _, _, begin, here = _ACTION.unpack_from(journal, at)
    if kind != _WRITE or not place or place % 512 or place > MOST_BYTES:
        return None
    start = at + _ACTION_SIZE
    room = _BLOCK - start % _BLOCK if start % _BLOCK else _BLOCK
    if not 0 < length <= _MOST_IMAGE or here != min(room, length) or begin % _BLOCK != start % _BLOCK:
        return None
    data = journal[start : start + here]
    block = start - start % _BLOCK
    while len(data) < length:
        block += _BLOCK
        if block + _BLOCK > len(journal):
            return None
        mark, _, _, _, _, other = _HEAD.unpack_from(journal, block)
        if mark != _HEAD_MARK or other != transaction:
            return None
        data += journal[block + _HEAD.size : block + _HEAD.size + min(length - len(data), _BLOCK - _HEAD.size)]
    return AfterImage(place, data, start, transaction)
