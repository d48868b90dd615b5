"""Paths out of an image as paths that are safe on this host, no two the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

_LONGEST_NAME = 255
_LONGEST_PLACE = 3000
_DEEPEST = 200
_FOLDER = "folder "
# Who looks for leftovers of an extraction finds them by this.
OWN = ".triune-rescue"


def safe_name(name: str) -> str:
    """One component: what a file system or a terminal could take amiss is percent-escaped, what is too long is cut."""
    if name in ("", ".", ".."):
        return "%2E" * len(name) or "%"
    if name.startswith(OWN):
        name = f"%2E{name[1:]}"
    text = "".join(char if char.isprintable() and char != "/" else _escaped(char) for char in name)
    return text if len(text.encode()) <= _LONGEST_NAME else _cut(text, name)


def _escaped(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _cut(text: str, name: str) -> str:
    stem, dot, ending = text.rpartition(".")
    tail = f"~{_mark(name)}" + (f".{ending}" if dot and stem and len(ending.encode()) <= 16 else "")
    return text.encode()[: _LONGEST_NAME - len(tail.encode())].decode(errors="ignore") + tail


class Names:
    """Gives every file and folder a path of its own below a folder.

    `taken` tells of a path, and whether it is to be a folder, if something else is there already. `known` are paths
    given earlier, by identity.
    """

    def __init__(self, taken: Callable[[str, bool], bool], known: dict[str, str] | None = None) -> None:
        self._taken = taken
        self._given = dict(known or {})
        self._owners = {path: identity for identity, path in self._given.items()}

    def file(self, path: str, identity: str) -> str:
        """The path to write a file at; the same for the same identity."""
        folder, _, name = path.rpartition("/")
        return self._given.get(identity) or self._give(self._place(folder), safe_name(name), identity)

    def folder(self, path: str) -> str:
        """The path of a folder; empty for the top."""
        if not path:
            return ""
        identity = f"{_FOLDER}{path}"
        parent, _, name = path.rpartition("/")
        return self._given.get(identity) or self._give(self._place(parent), safe_name(name), identity)

    def _place(self, folder: str) -> str:
        """Where what lies in a folder goes: what is too deep goes to one place at the top."""
        if folder.count("/") < _DEEPEST:
            place = self.folder(folder)
            if len(place.encode()) <= _LONGEST_PLACE:
                return place
        return self._give("", f"deep~{_mark(folder)}", f"{_FOLDER}{folder}/")

    def _give(self, place: str, name: str, identity: str) -> str:
        given = self._given.get(identity)
        if given is not None:
            return given
        wished = f"{place}/{name}" if place else name
        path, number = wished, 1
        while path in self._owners or self._taken(path, identity.startswith(_FOLDER)):
            number += 1
            path = _numbered(wished, number)
        self._given[identity], self._owners[path] = path, identity
        return path


def _numbered(path: str, number: int) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    tail = f"~{number}" + (f".{ending}" if dot and stem and len(ending.encode()) <= 16 else "")
    kept = (stem if tail.count(".") else name).encode()[: _LONGEST_NAME - len(tail.encode())].decode(errors="ignore")
    return f"{folder}{slash}{kept}{tail}"
