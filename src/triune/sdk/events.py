"""Events, as they happen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from triune.domain.errors import Unreachable
from triune.sdk.http import ProtocolError
from triune.sdk.sse import messages
from triune.sdk.transport import Transport, target

if TYPE_CHECKING:
    from triune.sdk.types import EventRow

# The daemon sends a heartbeat every 15 seconds; three missed ones mean that it is gone.
_SILENCE = 50.0


class Events:
    """The event stream."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def stream(
        self,
        *,
        since: int | None = None,
        kind: str | None = None,
        subject: str | None = None,
        follow: bool = True,
    ) -> Iterator[EventRow]:
        """Yield events, from the one after number `since` on; without it from now on.

        `kind` is a prefix of the type (`instance.`), `subject` the thing (`instances/web`). The connection stands
        once this returns. An event of type `resync` says that some were lost: read the state anew. Raises
        Unreachable when the daemon goes away; without `follow` it ends with what is kept.
        """
        where = target("/v1/events", since=since, type=kind, subject=subject, follow=follow)
        response = self._transport.open("GET", where, headers={"Accept": "text/event-stream"}, timeout=_SILENCE)

        def events() -> Iterator[EventRow]:
            try:
                for message in messages(response.chunks()):
                    if message.event:
                        yield json.loads(message.data)
            except (OSError, ProtocolError, ValueError) as error:
                raise _broken(error) from None
            finally:
                response.close()
            if follow:
                raise _broken(None)

        return events()


def _broken(error: Exception | None) -> Unreachable:
    reason = f": {error}" if error and str(error) else ""
    return Unreachable(
        "events_broke_off",
        f"the daemon ended the event stream{reason}",
        hint="See whether it runs: triune version",
    )
