"""`launch --iso`: an installer, from a file or imported before."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from triune.cli.waiting import finish
from triune.domain.errors import Invalid, NotFound
from triune.domain.names import image_name
from triune.sdk import Client

_FAMILY = "iso"


def installer_image(client: Client, iso: str) -> str:
    """The name of the installer's image; a file of this host becomes `iso/FILE` unless it is that already."""
    path = Path(iso).absolute()
    if not path.is_file():
        return _known(client, iso)
    name = f"{_FAMILY}/{_version(path.stem)}"
    if _held(client, name, path):
        return name
    submitted = client.images.import_path(name, str(path), format="iso", replace=True)
    finish(client, submitted, name)
    return name


def _known(client: Client, iso: str) -> str:
    try:
        found = client.images.get(image_name(iso))
    except (Invalid, NotFound):
        raise NotFound(
            "file_not_found",
            f"there is no file and no image {iso}",
            hint="Check the path; see the images: triune image list",
        ) from None
    if not found["forms"].get("disk", {}).get("iso"):
        raise Invalid(
            "not_an_installer",
            f"{iso} is not an installer's image",
            hint=f"Launch it as it is: triune launch {iso} NAME",
        )
    return iso


def _held(client: Client, name: str, path: Path) -> bool:
    try:
        known = client.images.get(name)["sha256"]
    except NotFound:
        return False
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == known
    except OSError as error:
        raise Invalid("bad_path", f"can't read {path}: {error.strerror}", hint="Name a readable file.") from None


def _version(stem: str) -> str:
    """Of a file's name what an image's name may hold."""
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower())[:60].strip("._-") or "installer"
