"""Errors for people, on stderr: a sentence, the next step, the code."""

from __future__ import annotations

import os
import sys

from triune.cli.text import clean, colours, paint
from triune.domain.errors import TriuneError


def tell(error: Exception, *, name: str = "") -> int:
    """Print an error and return its exit code; what is no TriuneError is a bug, and told as one.

    `name` is put in front where several things are worked on.
    """
    if not isinstance(error, TriuneError):
        if os.environ.get("TRIUNE_DEBUG"):
            raise error
        print(f"error: unexpected {type(error).__name__}: {clean(str(error))}", file=sys.stderr)
        print("hint: this is a bug in triune; TRIUNE_DEBUG=1 shows where, please report it", file=sys.stderr)
        return 1
    colour = colours(sys.stderr)
    sentence = clean(error.message)
    if name and name not in sentence:
        sentence = f"{name}: {sentence}"
    print(f"{paint('error:', 'red', colour)} {sentence}", file=sys.stderr)
    if error.hint:
        print(f"{paint('hint:', 'cyan', colour)} {clean(error.hint)}", file=sys.stderr)
    print(paint(f"code: {clean(error.code)}", "dim", colour), file=sys.stderr)
    for line in _leftovers(error):
        print(f"left over: {clean(line)}", file=sys.stderr)
    return error.exit_code


def warn(sentence: str) -> None:
    """Print a warning."""
    print(f"{paint('warning:', 'yellow', colours(sys.stderr))} {clean(sentence)}", file=sys.stderr)


def _leftovers(error: TriuneError) -> list[str]:
    left = error.details.get("leftovers")
    if not isinstance(left, list):
        return []
    return [f"{item.get('kind')} {item.get('data')}: {item.get('reason')}" for item in left if isinstance(item, dict)]
