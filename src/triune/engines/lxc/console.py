"""The container's console (/dev/console), by `lxc-console`."""

from __future__ import annotations

from triune.engines.base import Session, Terminal
from triune.engines.lxc.client import Client
from triune.engines.lxc.session import ProcessSession, with_terminal

_PREFIX = b"\x01"


class LxcConsole:
    """The `console` facet. One client at a time holds a console: liblxc turns others away."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def open(self, name: str, terminal: Terminal) -> Session:
        """Attach to it. Raises NotFound, Conflict("instance_not_running")."""
        self._client.require_running(name)
        argv = ["lxc-console", "-P", str(self._client.path), "-n", name, "-t", "0"]
        return _ConsoleSession(with_terminal(argv, {}, terminal, quiet=True))


class _ConsoleSession:
    """Passes every key on. lxc-console takes Ctrl-a as a prefix and Ctrl-a twice as Ctrl-a; it can't be told not to."""

    def __init__(self, inner: ProcessSession) -> None:
        self._inner = inner
        self.read = inner.read
        self.close_stdin = inner.close_stdin
        self.resize = inner.resize
        self.wait = inner.wait
        self.close = inner.close

    def write(self, data: bytes) -> None:
        """Write keys."""
        self._inner.write(data.replace(_PREFIX, _PREFIX * 2))
