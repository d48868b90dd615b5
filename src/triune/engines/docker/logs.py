"""What a container wrote to its stdout and stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import describe, not_found
from triune.engines.docker.frames import Demultiplexer
from triune.engines.docker.stream import RawStream

_LOOK = 0.25


class ContainerLogs:
    """The logs facet."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def read(self, name: str, *, tail: int | None, follow: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
        """Yield chunks, both streams in the order written. Raises Unsupported where the log driver keeps nothing."""
        found = describe(self._client, name)
        query = {
            "stdout": "1",
            "stderr": "1",
            "follow": "1" if follow else "0",
            "tail": "all" if tail is None else str(max(tail, 0)),
        }
        stream = self._client.stream("GET", f"/containers/{found['Id']}/logs", query, missing=not_found(name))
        return _chunks(stream, tty=bool(found["Config"].get("Tty")), stop=stop)


def _chunks(stream: RawStream, *, tty: bool, stop: Callable[[], bool]) -> Iterator[bytes]:
    frames = Demultiplexer()
    with stream:
        while not stop():
            data = stream.recv(_LOOK)
            if data is None:
                continue
            if not data:
                return
            if tty:
                yield data
            else:
                yield from (payload for _, payload in frames.feed(data))
