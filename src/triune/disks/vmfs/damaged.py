"""The error of all parsers here, and integers that are never read beyond the end."""

from __future__ import annotations

from struct import Struct, error
from typing import Any

from triune.domain.errors import Invalid


class Damaged(Invalid):
    """A structure is not what it should be; `why` is a phrase that names it."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "damaged_volume",
            f"the volume is damaged: {why}",
            hint="Scan it: a scan finds what is left without that.",
        )
        self.why = why


def unpack(layout: Struct, data: bytes | memoryview, offset: int, what: str) -> tuple[Any, ...]:
    """The fields at `offset`. Raises Damaged where `what` is cut short."""
    try:
        return layout.unpack_from(data, offset)
    except error:
        raise Damaged(f"{what} is cut short") from None


def text(raw: bytes) -> str:
    """What stands before the first zero; bytes that are no UTF-8 appear as `\\xNN`."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def uuid(raw: bytes) -> str:
    """VMware's way to write a UUID: two words of time, a random half-word, a MAC address. Empty for zeros."""
    if len(raw) < 16 or not any(raw[:16]):
        return ""
    low, high, rand = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little"), raw[8:10][::-1].hex()
    return f"{low:08x}-{high:08x}-{rand}-{raw[10:16].hex()}"
