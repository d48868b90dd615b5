"""What may be a name, and the check that no control character passes."""

from __future__ import annotations

import re

from triune.domain.errors import Invalid

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_IMAGE_PART = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_SNAPSHOT = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)
_RESERVED = frozenset({"localhost", "gateway", "ip6-localhost", "ip6-loopback", "broadcasthost"})


def instance_name(text: str) -> str:
    """Return the name: 1 to 63 of `a-z 0-9 -`, as a DNS label (RFC 1123). Raises Invalid."""
    if not _NAME.fullmatch(text) or text in _RESERVED:
        raise Invalid(
            "bad_name",
            f"{text!r} is not a valid instance name",
            hint="Use 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'.",
        )
    return text


def storage_name(text: str, what: str) -> str:
    """Return the name of a pool or a volume: 1 to 63 of `a-z 0-9 -`. Raises Invalid."""
    if not _NAME.fullmatch(text):
        raise Invalid(
            "bad_name",
            f"{text!r} is not a valid name of a {what}",
            hint="Use 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'.",
        )
    return text


def image_name(text: str) -> str:
    """Return `family/version`. Raises Invalid."""
    family, slash, version = text.partition("/")
    if not (slash and _IMAGE_PART.fullmatch(family) and _IMAGE_PART.fullmatch(version)):
        raise Invalid(
            "bad_image_name",
            f"{text!r} is not an image name",
            hint="Write it as family/version, like debian/12.",
        )
    return text


def snapshot_name(text: str) -> str:
    """Return the name: 1 to 63 of `a-z 0-9 . _ -`. Raises Invalid."""
    if not _SNAPSHOT.fullmatch(text) or ".." in text:
        raise Invalid(
            "bad_name",
            f"{text!r} is not a valid name of a snapshot",
            hint="Use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit.",
        )
    return text


def single_line(text: str, what: str) -> str:
    """Return the text if it has no control characters; native configuration is line-based. Raises Invalid."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise Invalid("not_unicode", f"{what} is not valid Unicode text", hint="Write it in UTF-8.")
    if any(ord(char) < 32 or ord(char) == 127 or char in "\x85\u2028\u2029" for char in text):
        raise Invalid(
            "control_character",
            f"{what} contains a line break or another control character",
            hint="Remove it; a value is one line of text.",
        )
    return text
