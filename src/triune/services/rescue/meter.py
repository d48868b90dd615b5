"""How far an extraction is, for whoever shows it, and how it is stopped."""

from __future__ import annotations

from threading import Event, Lock, get_ident

from triune.domain.errors import Cancelled


class Meter:
    """`total` and `done` count bytes read, read back and hashed; `written` what went into files. Safe for threads."""

    def __init__(self) -> None:
        self.total = self.done = self.written = 0
        self.files = self.files_done = 0
        self.current: dict[int, str] = {}
        self.stop = Event()
        self._lock = Lock()

    def tick(self, length: int) -> None:
        """So many bytes more. Raises Cancelled once `stop` is set."""
        if self.stop.is_set():
            raise Cancelled("cancelled", "the extraction was stopped", hint="The same command goes on with it.")
        with self._lock:
            self.done += length

    def doing(self, what: str) -> None:
        """Tell what this thread works on; nothing any more for an empty text."""
        with self._lock:
            if what:
                self.current[get_ident()] = what
            else:
                self.current.pop(get_ident(), None)

    def finished(self, written: int) -> None:
        """A file is there; so many bytes went into it."""
        with self._lock:
            self.written += written
            self.files_done += 1
