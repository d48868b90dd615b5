"""Reading an HTTP/1.1 response (RFC 9112) from a byte source, bounded everywhere.

The standard library's `http.client` takes as long to import as all the rest of `triune list` takes to run (it brings
the e-mail package), so this is the one HTTP reader of the SDK. It knows what the daemon sends: a status line, header
fields, and a body framed by Content-Length, by chunks, or by the end of the connection. Whatever else comes is
refused with ProtocolError; the server is not trusted.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_HEAD = 64 * 1024
MAX_BODY = 256 * 2**20
_PIECE = 64 * 1024
_HEX = frozenset(b"0123456789abcdefABCDEF")


class ProtocolError(Exception):
    """What came is not the HTTP response it should be."""


class Source:
    """A buffered reader over `receive(size) -> bytes`, which returns b"" at the end."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = b""

    def until(self, mark: bytes, limit: int) -> bytes:
        """Everything before `mark`, which is consumed. Raises ProtocolError beyond `limit` bytes or at the end."""
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) >= limit + len(mark):
                raise ProtocolError(f"no end of line within {limit} bytes")
            more = self._receive(_PIECE)
            if not more:
                raise ProtocolError("the connection ended in the middle of a response")
            self._buffer += more
        if at > limit:
            raise ProtocolError(f"no end of line within {limit} bytes")
        found, self._buffer = self._buffer[:at], self._buffer[at + len(mark) :]
        return found

    def some(self, limit: int) -> bytes:
        """Between 1 and `limit` bytes, or b"" at the end."""
        if not self._buffer:
            return self._receive(min(limit, _PIECE))
        found, self._buffer = self._buffer[:limit], self._buffer[limit:]
        return found


class Response:
    """Status, header fields (names in lower case) and a body that is read as it comes."""

    def __init__(self, receive: Callable[[int], bytes], close: Callable[[], None]) -> None:
        self._source = Source(receive)
        self._close = close
        self.status, self.headers = _head(self._source)
        while 100 <= self.status < 200:
            self.status, self.headers = _head(self._source)

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece. Raises ProtocolError when it ends too early."""
        if self.status in (204, 304):
            return iter(())
        coding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise ProtocolError("the response has an unknown or a contradictory framing")
            return _chunked(self._source)
        if length is None:
            return _to_the_end(self._source)
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            raise ProtocolError("the response has a bad Content-Length")
        return _counted(self._source, int(length))

    def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises ProtocolError when it is longer than `limit`."""
        pieces = []
        size = 0
        for piece in self.chunks():
            size += len(piece)
            if size > limit:
                raise ProtocolError(f"the response is longer than {limit} bytes")
            pieces.append(piece)
        self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """End the connection."""
        self._close()


def _head(source: Source) -> tuple[int, dict[str, str]]:
    lines = source.until(b"\r\n\r\n", MAX_HEAD).split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    code = rest[:3]
    if (
        version not in (b"HTTP/1.1", b"HTTP/1.0")
        or len(code) != 3
        or not code.isdigit()
        or rest[3:4] not in (b"", b" ")
    ):
        raise ProtocolError("the answer is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ProtocolError("the response has a malformed header field")
        key = name.decode("latin-1").lower()
        if key in headers and key in ("content-length", "transfer-encoding"):
            raise ProtocolError("the response repeats a header field of its framing")
        headers[key] = value.strip(b" \t").decode("latin-1")
    return int(code), headers


def _counted(source: Source, left: int) -> Iterator[bytes]:
    while left:
        piece = source.some(left)
        if not piece:
            raise ProtocolError(f"the connection ended {left} bytes too early")
        left -= len(piece)
        yield piece


def _to_the_end(source: Source) -> Iterator[bytes]:
    while piece := source.some(_PIECE):
        yield piece


def _chunked(source: Source) -> Iterator[bytes]:
    while True:
        size = source.until(b"\r\n", 1024).partition(b";")[0].strip(b" \t")
        if not 0 < len(size) <= 15 or not _HEX.issuperset(size):
            raise ProtocolError("the response has a bad chunk size")
        left = int(size, 16)
        if left == 0:
            break
        yield from _counted(source, left)
        if source.until(b"\r\n", 0):
            raise ProtocolError("a chunk is longer than it said")
    while source.until(b"\r\n", MAX_HEAD):
        pass
