"""Files of an instance, as it sees them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from triune.domain.errors import Invalid, NotFound
from triune.domain.names import single_line


class FileKind(StrEnum):
    """What is at a path."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """What is at a path, a symbolic link itself. `size` in bytes, `mtime` in seconds since 1970, `mode` the permission
    bits, `target` where a link leads. `folder`: whether it is a folder or a link to one."""

    kind: FileKind
    size: int
    mode: int
    mtime: int
    target: str | None = None
    folder: bool = False


def inside_path(text: str) -> str:
    """A path inside an instance, as it can be used. Raises Invalid for one that is not absolute."""
    path = single_line(text, "The path")
    if not path.startswith("/"):
        raise Invalid(
            "bad_path", f"{path[:200]!r} is not an absolute path", hint="Write it from the instance's top: NAME:/path"
        )
    return path


def split(path: str) -> tuple[str, str]:
    """The folder and the name of what is to be read; "." for a path that ends with `/.`, and for "/": the contents."""
    if path.endswith("/.") or path.strip("/") == "":
        return path.removesuffix(".").rstrip("/") or "/", "."
    folder, _, name = path.rstrip("/").rpartition("/")
    if name == "..":
        raise Invalid("bad_path", f"{path[:200]!r} ends with '..'", hint="Name the folder itself.")
    return folder or "/", name


def path_not_found(name: str, path: str) -> NotFound:
    """The error for a path where nothing is."""
    return NotFound("path_not_found", f"there is no {path} in {name}", hint=f"Look: triune exec {name} -- ls -la /")
