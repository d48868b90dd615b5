"""`KEY=VALUE` words of the command line."""

from __future__ import annotations

from triune.domain.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` words as a dict. Raises Invalid."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise Invalid(
                "bad_option",
                f"{option} {word!r} is not KEY=VALUE".strip(),
                hint=f"Write it like {f'{option} KEY=VALUE'.strip()}.",
            )
        found[key] = value
    return found
