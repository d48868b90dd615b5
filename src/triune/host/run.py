"""The one gate to subprocesses: argv lists, a clean environment, failures explained with a line to paste."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from triune.domain.errors import Failed, Unsupported

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "TMPDIR",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished command left: exit status, and its output where it was captured."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment subprocesses get: a system PATH, C.UTF-8, proxies, and `extra`."""
    env = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}
    env.update({key: os.environ[key] for key in _KEPT if key in os.environ})
    env.update(extra or {})
    return env


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: bytes | IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    timeout: float | None = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    keep: Sequence[int] = (),
) -> Result:
    """Run a command to its end and return its Result.

    `stdin` is bytes or an open file; `stdout` an open file, else it is captured; descriptors in `keep` stay open in it
    under their numbers. Raises Unsupported
    ("tool_missing") where the program is not installed, and Failed ("command_failed", "command_timeout") with the
    last lines of its error output when it fails and `check` is set.
    """
    words = [os.fspath(word) for word in argv]
    source: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
    try:
        done = subprocess.run(
            words,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            env=environment(env),
            cwd=cwd,
            pass_fds=keep,
            check=False,
            **source,
        )
    except FileNotFoundError:
        raise tool_missing(words[0]) from None
    except subprocess.TimeoutExpired:
        raise Failed(
            "command_timeout",
            f"{words[0]} did not finish within {timeout:g} s",
            hint=f"Try it by hand: {shlex.join(words)}",
        ) from None
    result = Result(done.returncode, done.stdout or b"", done.stderr or b"")
    if check and result.status != 0:
        raise command_failed(words, result)
    return result


def tool_missing(program: str) -> Unsupported:
    """The error for a program that is not installed."""
    return Unsupported(
        "tool_missing", f"{program} is not installed on this host", hint="Run: triune setup", tool=program
    )


def command_failed(argv: Sequence[str], result: Result) -> Failed:
    """The error for a command that ended with a status other than 0."""
    said = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()[-5:]
    return Failed(
        "command_failed",
        f"{argv[0]} failed with status {result.status}: {' / '.join(said) or 'no message'}",
        hint=f"Try it by hand: {shlex.join(argv)}",
        status=result.status,
    )
