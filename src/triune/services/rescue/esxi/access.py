"""How a host is entered: who, with which password, which keys are trusted, and how patient one is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from triune.domain.errors import Denied, Invalid, NotFound
from triune.services.rescue.esxi.known import KnownHosts

_VARIABLE = "TRIUNE_ESXI_PASSWORD"
_LONGEST = 4096
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a dead line is waited for. Seconds; `tries` connections in a row without a single byte read."""

    connecting: float = 20.0
    reading: float = 60.0
    tries: int = 6
    first_pause: float = 0.5
    longest_pause: float = 15.0

    def pause(self, failures: int) -> float:
        """Seconds before the next try, after so many failures."""
        return float(min(self.longest_pause, self.first_pause * (1 << min(30, max(0, failures - 1)))))


class Passwords:
    """A password per user and host: from a file, the environment or whoever answers `ask`. Asked for once each."""

    def __init__(self, file: Path | None = None, ask: Callable[[str], str] | None = None) -> None:
        """`ask` gets `user@host`."""
        self._file, self._ask = file, ask
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Never a password."""
        return "Passwords()"

    def of(self, user: str, host: str) -> str:
        """The password. Raises Denied("no_password") where nobody knows one."""
        who = f"{user}@{host}"
        with self._lock:
            if who not in self._known:
                self._known[who] = self._found(who)
            return self._known[who]

    def _found(self, who: str) -> str:
        if self._file is not None:
            return _from_file(self._file)
        if value := os.environ.get(_VARIABLE, ""):
            return value
        if self._ask is not None:
            return self._ask(who)
        raise Denied(
            "no_password",
            f"{who} wants a password, and there is no terminal to ask for it",
            hint=f"Give it by --password-file FILE or in {_VARIABLE}.",
        )


def _from_file(file: Path) -> str:
    """The first line."""
    try:
        with file.open("rb") as opened:
            line = opened.readline(_LONGEST).rstrip(b"\r\n")
    except FileNotFoundError:
        raise NotFound("no_password_file", f"there is no {file}", hint="Its first line is the password.") from None
    except OSError as error:
        raise Denied("password_file_refused", f"{file}: {error.strerror}", hint="Name a readable file.") from None
    try:
        password = line.decode()
    except UnicodeError:
        raise Invalid(
            "bad_password_file", f"{file} is not UTF-8 text", hint="Its first line is the password."
        ) from None
    if not password:
        raise Invalid("bad_password_file", f"the first line of {file} is empty", hint="Write the password there.")
    return password


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Everything that opening an address takes beside the address.

    `cache` is the folder for blocks of devices (a session's), None for memory alone; `cache_limit` its bound in bytes
    for each device. `tell` gets a sentence where something is accepted or goes on after a stop.
    """

    passwords: Passwords = field(default_factory=Passwords)
    accept_new: bool = False
    known: KnownHosts = field(default_factory=KnownHosts)
    cache: Path | None = None
    cache_limit: int = 4 * GIB
    patience: Patience = field(default_factory=Patience)
    tell: Callable[[str], None] = lambda sentence: None
