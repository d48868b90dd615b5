"""Server-Sent Events (WHATWG HTML, section 9.2): from pieces of text to (event, id, data)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_LINE = 2**20


class Message:
    """One event of the stream; a heartbeat (a comment) has `event` "" and no data."""

    __slots__ = ("data", "event", "id")

    def __init__(self, event: str, identity: str, data: str) -> None:
        self.event = event
        self.id = identity
        self.data = data


def messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """The events of a stream. Lines end in LF or CRLF, as the daemon writes them. Raises ValueError past 1 MiB."""
    event, identity, data = "message", "", list[str]()
    for line in _lines(chunks):
        if not line:
            if data:
                yield Message(event, identity, "\n".join(data))
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
            if sum(map(len, data)) > _MAX_LINE:
                raise ValueError("an event is longer than 1 MiB")
        elif field == "event":
            event = value
        elif field == "id" and "\0" not in value:
            identity = value
        elif not field:
            yield Message("", identity, "")


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise ValueError("a line of the event stream is longer than 1 MiB")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
