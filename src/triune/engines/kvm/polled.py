"""An exec session with nothing but the guest agent: input is sent whole, output comes whole at the end."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from triune.domain.errors import Failed, TriuneError, Unsupported
from triune.engines.kvm.agent import Agent

_MAX_STDIN = 4 * 2**20  # the agent's own limit on a request lies just above
_GRACE = 1.0  # a caller that has sent nothing by then sends nothing
_SIGHUP = "HUP"


class PolledSession:
    """For guests without our ports or without Perl: no terminal, no streaming."""

    def __init__(self, agent: Agent, argv: Sequence[str], env: Sequence[str]) -> None:
        self._agent = agent
        self._argv = list(argv)
        self._env = list(env)
        self._stdin = bytearray()
        self._writing = False
        self._stdin_complete = threading.Event()
        self._closed = threading.Event()
        self._ended = threading.Event()
        self._started: int | None = None
        self._code = 255
        self._output: list[tuple[int, bytes]] = []

    def read(self) -> tuple[int, bytes] | None:
        """All of stdout, then all of stderr, then None."""
        if not self._ended.is_set():
            try:
                self._run()
            finally:
                self._ended.set()
        return self._output.pop(0) if self._output else None

    def _run(self) -> None:
        while not self._stdin_complete.wait(_GRACE) and self._writing and not self._closed.is_set():
            pass
        if self._closed.is_set():
            return
        self._stdin_complete.set()
        try:
            self._started = self._agent.execute(
                self._argv, stdin=bytes(self._stdin) or None, env=self._env, capture=True
            )
        except Failed:
            self._code = 127
            self._output = [(2, f"triune: the guest cannot run {self._argv[0]}\n".encode())]
            return
        pause = 0.02
        while not self._closed.wait(pause):
            done = self._agent.outcome(self._started)
            if done is not None:
                self._code, out, err = done
                self._output = [(stream, data) for stream, data in ((1, out), (2, err)) if data]
                return
            pause = min(0.5, pause * 1.5)

    def write(self, data: bytes) -> None:
        """Collect input until `close_stdin`. Raises Unsupported where it comes too late or is too much."""
        self._writing = True
        if self._stdin_complete.is_set() or len(self._stdin) + len(data) > _MAX_STDIN:
            raise Unsupported(
                "no_exec_stream",
                "without Triune's command ports a guest takes at most 4 MiB of input, all before the command starts",
                hint="Send it less, or launch an instance with Triune.",
            )
        self._stdin += data

    def close_stdin(self) -> None:
        """The input is complete; the command starts."""
        self._stdin_complete.set()

    def resize(self, columns: int, rows: int) -> None:
        """There is no terminal: nothing to do."""

    def wait(self) -> int:
        """The exit code."""
        self._ended.wait()
        return self._code

    def close(self) -> None:
        """End it: the command gets SIGHUP."""
        already = self._ended.is_set()
        self._closed.set()
        self._stdin_complete.set()
        if self._started is not None and not already:
            try:
                self._agent.execute(["kill", f"-{_SIGHUP}", str(self._started)])
            except TriuneError:
                return  # the guest is gone, and the command with it
