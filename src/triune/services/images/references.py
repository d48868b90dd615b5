"""What an image is called by: `family/version`, or `docker:NAME[:TAG]` for one of an OCI store."""

from __future__ import annotations

import re

from triune.domain.errors import Invalid

OCI_PREFIX = "docker:"
_REFERENCE = re.compile(
    r"(?P<name>(?:[a-zA-Z0-9.-]{1,200}(?::\d{1,5})?/|\[[0-9a-f:]{2,39}\](?::\d{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


def oci_reference(name: str) -> str | None:
    """The store's own reference, tag made explicit, of `docker:…`; None for another kind of name.

    Raises Invalid("bad_image_name") where it begins so and is none.
    """
    if not name.startswith(OCI_PREFIX):
        return None
    text = name.removeprefix(OCI_PREFIX)
    match = _REFERENCE.fullmatch(text) if len(text) <= 512 else None
    if match is None:
        raise Invalid(
            "bad_image_name",
            f"{name[:200]!r} is not an image name",
            hint=f"Write it as {OCI_PREFIX}NAME[:TAG], like {OCI_PREFIX}nginx:1.27.",
        )
    if match["digest"]:
        return f"{match['name']}@{match['digest']}"
    return f"{match['name']}:{match['tag'] or 'latest'}"


def own_reference(name: str) -> str:
    """The reference under which our `family/version` lies in an OCI store: `triune/family:version`."""
    family, _, version = name.partition("/")
    # A family may end in what a repository may not, and hold doubled separators.
    return f"triune/{re.sub(r'[._-]+', '-', family).strip('-')}:{version}"
