"""Docker's multiplexed output: frames of an 8-byte header and a payload.

The header is the stream (0 stdin echoed, 1 stdout, 2 stderr, 3 the engine's own errors), three zero bytes, and the
payload's length as a big-endian 32-bit number (Docker Engine API, "Attach to a container", stream format).
"""

from __future__ import annotations

STDOUT = 1
STDERR = 2
_HEADER = 8
_STREAMS = {0: STDOUT, 1: STDOUT, 2: STDERR, 3: STDERR}


class Demultiplexer:
    """Splits a byte stream that arrives in pieces of any size.

    When a command cannot be started, the engine writes its message into the stream without a header; a header that
    cannot be one therefore makes all that follows plain text for stderr.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = STDOUT
        self._left = 0
        self._plain = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the (stream, payload) parts in `data`; payloads may be parts of a frame, and are never empty."""
        parts: list[tuple[int, bytes]] = []
        position = 0
        while position < len(data):
            if self._plain:
                parts.append((STDERR, data[position:]))
                break
            if self._left:
                piece = data[position : position + self._left]
                parts.append((self._stream, piece))
                position += len(piece)
                self._left -= len(piece)
                continue
            taken = data[position : position + _HEADER - len(self._header)]
            self._header += taken
            position += len(taken)
            if not self._plausible():
                self._plain = True
                parts.append((STDERR, bytes(self._header)))
                self._header.clear()
            elif len(self._header) == _HEADER:
                self._stream = _STREAMS[self._header[0]]
                self._left = int.from_bytes(self._header[4:], "big")
                self._header.clear()
        return parts

    def _plausible(self) -> bool:
        return self._header[0] in _STREAMS and not any(self._header[1:4])
