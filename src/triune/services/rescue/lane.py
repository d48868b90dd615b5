"""Calls that a thread of their own does, one after the other, while the caller goes on."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

_AHEAD = 8


class Lane:
    """Does them in order; who asks for more waits while too many are on their way. After an error, none is done."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()  # a token for each call that may be on its way
        for _ in range(_AHEAD):
            self._room.put(None)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def do(self, work: Callable[..., object], *arguments: Any) -> None:
        """One more call. Raises what went wrong in an earlier one."""
        self._room.get()
        if self._error is not None:
            self.finish()
        self._queue.put((work, arguments))

    def finish(self) -> None:
        """Wait for the rest. Raises what went wrong in the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            work, arguments = call
            try:
                if self._error is None:
                    work(*arguments)
            except BaseException as error:  # told by `finish`, in the thread that asked
                self._error = error
            finally:
                self._room.put(None)
