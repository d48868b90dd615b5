"""The frames of an exec session: one letter, length (32 bits, big-endian), payload. `pump.pl` is the other side.

What a guest sends is not trusted: a frame has an upper size and a known letter, or the session ends.
"""

from __future__ import annotations

import struct

from triune.domain.errors import Failed

MAX_PAYLOAD = 131072
STDIN_WINDOW = 262144  # bytes of stdin that may be on their way, not yet taken by the command
CHUNK = 32768
FROM_GUEST = b"SORAX"
_HEADER = struct.Struct(">cI")


def encode(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame. Raises ValueError on a payload over `MAX_PAYLOAD`."""
    if len(payload) > MAX_PAYLOAD or len(kind) != 1:
        raise ValueError("a frame is one letter and at most 128 KiB")
    return _HEADER.pack(kind, len(payload)) + payload


class Decoder:
    """Bytes in, frames out, in any slicing. Drops everything before `token`, which is not part of a frame."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._greeted = False
        self._buffer = bytearray()

    @property
    def greeted(self) -> bool:
        """Whether the token has come."""
        return self._greeted

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The frames completed by `data`. Raises Failed("bad_frame")."""
        self._buffer += data
        if not self._greeted and not self._greet():
            return []
        frames = []
        while len(self._buffer) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._buffer)
            if size > MAX_PAYLOAD or kind not in FROM_GUEST:
                raise Failed(
                    "bad_frame",
                    "the guest's side of the session sent nonsense",
                    hint="Something else in the guest writes to the port; try again or use: triune console",
                )
            end = _HEADER.size + size
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[_HEADER.size : end])))
            del self._buffer[:end]
        return frames

    def _greet(self) -> bool:
        at = self._buffer.find(self._token)
        if at < 0:
            keep = len(self._token) - 1
            del self._buffer[: max(0, len(self._buffer) - keep)]
            return False
        del self._buffer[: at + len(self._token)]
        self._greeted = True
        return True
