"""Blocks of a remote file, kept in a session's folder from one run to the next.

One sparse file for each remote file: a header of 4 KiB, an index of 16 bytes for each slot (block number + 1, CRC-32,
length; little-endian), then the slots. Slots, not a copy at the same offsets: a device may be larger than the largest
file of the host's file system, and the bound holds by construction. A slot is written before its index entry, and a
block whose checksum does not fit is forgotten, so a crash costs no more than blocks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from pathlib import Path

from triune.domain.errors import Failed
from triune.services.rescue.esxi.readers import BLOCK

_HEADER = struct.Struct("<8s32sQQ")
_ENTRY = struct.Struct("<QII")
_MAGIC = b"TRIBLK01"
_PAGE = 4096
_MOST_SLOTS = 1 << 20
_STREAM_SHARE = 0.75


class BlockCache:
    """The cache of one remote file, `identity`, in `folder`; of at most `limit` bytes. Not for several threads."""

    def __init__(self, folder: Path, identity: str, size: int, limit: int) -> None:
        """Open it, or begin a new one. Raises BlockingIOError where another process has it, and OSError."""
        self._slots = max(1, min(limit // BLOCK, -(-size // BLOCK), _MOST_SLOTS))
        digest = hashlib.sha256(identity.encode()).digest()
        self._head = _HEADER.pack(_MAGIC, digest, size, self._slots)
        self._data_at = -(-(_PAGE + self._slots * _ENTRY.size) // _PAGE) * _PAGE
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{digest.hex()[:32]}.blocks"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._where: dict[int, int] = {}
            self._held: list[int] = [-1] * self._slots
            self._free: list[int] = []
            self._next = 0
            if os.pread(self._fd, _HEADER.size, 0) == self._head:
                self._load()
            else:
                self.reset()
        except BaseException:
            os.close(self._fd)
            raise

    def __len__(self) -> int:
        """How many blocks it holds."""
        return len(self._where)

    def __contains__(self, block: int) -> bool:
        """Whether it holds a block, as far as the index tells."""
        return block in self._where

    def _load(self) -> None:
        index = os.pread(self._fd, self._slots * _ENTRY.size, _PAGE)
        for slot, (number, _, _) in enumerate(_ENTRY.iter_unpack(index[: len(index) // _ENTRY.size * _ENTRY.size])):
            if number and number - 1 not in self._where:
                self._where[number - 1], self._held[slot] = slot, number - 1
        self._free = [slot for slot in range(self._slots - 1, -1, -1) if self._held[slot] < 0]

    def reset(self) -> None:
        """Forget everything."""
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self._data_at)
        os.pwrite(self._fd, self._head, 0)
        self._where.clear()
        self._held = [-1] * self._slots
        self._free = list(range(self._slots - 1, -1, -1))

    def get(self, block: int) -> bytes | None:
        """A block; None where it is not held, or not as it was written."""
        slot = self._where.get(block)
        if slot is None:
            return None
        number, checksum, length = _ENTRY.unpack(os.pread(self._fd, _ENTRY.size, _PAGE + slot * _ENTRY.size))
        if number == block + 1 and 0 < length <= BLOCK:
            data = os.pread(self._fd, length, self._data_at + slot * BLOCK)
            if len(data) == length and zlib.crc32(data) == checksum:
                return data
        self._forget(slot)
        return None

    def put(self, block: int, data: bytes | memoryview, *, passing: bool = False) -> None:
        """Keep a block. One of a `passing` stream never displaces another, nor takes the last quarter."""
        if block in self._where or not 0 < len(data) <= BLOCK:
            return
        if passing and len(self._where) >= self._slots * _STREAM_SHARE:
            return
        if not self._free:
            self._forget(self._next)
            self._next = (self._next + 1) % self._slots
        slot = self._free.pop()
        self._write(data, self._data_at + slot * BLOCK)
        self._write(_ENTRY.pack(block + 1, zlib.crc32(data), len(data)), _PAGE + slot * _ENTRY.size)
        self._where[block], self._held[slot] = slot, block

    def sample(self, most: int) -> list[int]:
        """Some of the blocks it holds, spread evenly."""
        held = sorted(self._where)
        return held if len(held) <= most else [held[index * len(held) // most] for index in range(most)]

    def close(self) -> None:
        """Let it go; once more does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _forget(self, slot: int) -> None:
        held, self._held[slot] = self._held[slot], -1
        self._where.pop(held, None)
        self._write(bytes(_ENTRY.size), _PAGE + slot * _ENTRY.size)
        self._free.append(slot)

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        if os.pwrite(self._fd, data, offset) != len(data):
            raise OSError(28, "no space left for the cache")


def open_cache(folder: Path, identity: str, size: int, limit: int) -> BlockCache | None:
    """The cache, or None where another process has it. Raises Failed("cache_refused")."""
    try:
        return BlockCache(folder, identity, size, limit)
    except BlockingIOError:
        return None
    except OSError as error:
        raise Failed(
            "cache_refused", f"the cache in {folder} can't be used: {error.strerror}", hint="Name another --session."
        ) from None
