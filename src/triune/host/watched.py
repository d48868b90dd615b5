"""Long commands: told how far they are, and ended when the caller has had enough."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from triune.host.run import Result, command_failed, environment, tool_missing

_LOOK = 0.2
_PERCENT = re.compile(rb"\((\d{1,3}(?:\.\d+)?)/100%\)")


def run_watched(
    argv: Sequence[str | Path], tick: Callable[[float | None], None], *, accept: Collection[int] = (0,)
) -> Result:
    """Run a command to its end, calling `tick` some times a second; it is killed when `tick` raises.

    `tick` gets the fraction that the last `(NN.NN/100%)` of its standard output tells (as `qemu-img -p` writes it), or
    None. Standard output is not kept. A status in `accept` is no failure.
    Raises Unsupported("tool_missing"), Failed("command_failed").
    """
    words = [os.fspath(word) for word in argv]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment()
            )
        except FileNotFoundError:
            raise tool_missing(words[0]) from None
        with process:
            try:
                _follow(process, tick)
            except BaseException:
                process.kill()
                raise
            status = process.wait()
        errors.seek(0)
        result = Result(status, b"", errors.read(1 << 20))
    if status not in accept:
        raise command_failed(words, result)
    return result


def run_told(
    argv: Sequence[str | Path],
    *,
    line: Callable[[bytes], None],
    tick: Callable[[], None],
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    patience: float = 10.0,
) -> Result:
    """Run a command to its end: `line` gets each line of its standard output, `tick` is called some times a second.

    When one of them raises, the command is interrupted (SIGINT), and killed `patience` seconds later. Returns its
    status and error output, whatever they are. Raises Unsupported("tool_missing").
    """
    words = [os.fspath(word) for word in argv]
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(words, stdin=given, stdout=subprocess.PIPE, stderr=errors, env=environment(env))
        except FileNotFoundError:
            raise tool_missing(words[0]) from None
        with process:
            try:
                _lines(process, line, tick)
            except BaseException:
                _end(process, patience)
                raise
            status = process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - (1 << 20)))
        return Result(status, b"", errors.read())


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()


def _lines(process: subprocess.Popen[bytes], line: Callable[[bytes], None], tick: Callable[[], None]) -> None:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    rest = b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if ready.select(_LOOK):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    break
                *whole, rest = (rest + data).split(b"\n")
                for one in whole:
                    line(one)
            tick()
    if rest:
        line(rest)


def _follow(process: subprocess.Popen[bytes], tick: Callable[[float | None], None]) -> None:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    fraction, tail = None, b""
    tick(fraction)
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if ready.select(_LOOK):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return
                tail = (tail + data)[-200:]
                if found := _PERCENT.findall(tail):
                    fraction = min(1.0, float(found[-1]) / 100)
            tick(fraction)
