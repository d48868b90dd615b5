"""The entry point: the quickest command without any framework, errors as sentences, exit codes of DESIGN.md §5."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
_BROKEN_PIPE = 141


def run() -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        _require_text(arguments)
        code = _lean(arguments)
        if code is None:
            from triune.cli.root import main

            code = main(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output went away (`| head`): nothing more can be said, and nothing must be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        from triune.cli.problems import tell

        return tell(error)


def _require_text(arguments: list[str]) -> None:
    """What is not UTF-8 reaches Python as lone surrogates, and could be told to nobody."""
    for number, argument in enumerate(arguments, 1):
        if any("\ud800" <= char <= "\udfff" for char in argument):
            from triune.domain.errors import Invalid

            raise Invalid(
                "not_unicode",
                f"argument {number} is not UTF-8 text: {argument!a}",
                hint="Write it in UTF-8; other bytes can go through stdin.",
            )


def _lean(arguments: list[str]) -> int | None:
    """`triune list` and `triune launch` in their common forms; None leaves it to Click."""
    if not arguments or "_TRIUNE_COMPLETE" in os.environ:
        return None
    if arguments[0] in ("list", "ls", "ps"):
        from triune.cli import listing

        return listing.lean(arguments[1:])
    if arguments[0] == "launch":
        from triune.cli import launching

        return launching.lean(arguments[1:])
    return None
