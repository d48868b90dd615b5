"""VMX, VMTX and their like (.vmxf's older form, .vmsd): `key = "value"` lines that describe a machine.

Source of the format: files that ESXi and Workstation wrote. `#` begins a comment line. In a value `|22` stands for the
character with that hexadecimal number (VMware writes `"`, `|` and line breaks so). A file says its encoding in
`.encoding`; unknown ones are read as UTF-8, or Latin-1 where that fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from triune.domain.errors import Invalid

LARGEST = 4 << 20
_MOST_LINES = 1 << 16
_LINE = re.compile(r'^\s*(?P<key>[^\s=#"][^\s="]{0,511})\s*=\s*(?:"(?P<quoted>[^"]*)"|(?P<plain>[^"\s].*?))?\s*$')
_ENCODING = re.compile(rb'^\s*\.encoding\s*=\s*"?([\w.-]{1,32})"?\s*$', re.MULTILINE | re.IGNORECASE)
_CODECS = {"utf-8": "utf-8", "windows-1252": "cp1252", "windows-1251": "cp1251", "gbk": "gbk", "shift_jis": "cp932",
           "big5": "big5", "euc-kr": "cp949", "iso-8859-1": "latin-1"}  # fmt: skip
_ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")


class Vmx:
    """The lines of one, in order. Keys are looked up without regard to case; the last of the same counts.

    `unread` are the numbers of lines that say nothing that can be read.
    """

    def __init__(self, lines: list[tuple[str, str, int]], unread: tuple[int, ...] = ()) -> None:
        self._lines = lines
        self._values = {key.lower(): value for key, value, _ in lines}
        self.unread = unread

    @classmethod
    def parse(cls, data: bytes) -> Vmx:
        """Read it. Raises Invalid("bad_vmx") where it is no text of this kind, or far too large."""
        if len(data) > LARGEST or b"\0" in data.rstrip(b"\0"):
            raise Invalid("bad_vmx", "the VMX is no text, or far too large", hint="Is it the right file?")
        lines, unread = [], []
        for number, line in enumerate(_text(data.rstrip(b"\0")).split("\n")[:_MOST_LINES], 1):
            stripped = line.strip("\ufeff\r\t ")
            if not stripped or stripped.startswith("#"):
                continue
            match = _LINE.match(stripped)
            if match is None:
                unread.append(number)
                continue
            value = match["quoted"] if match["quoted"] is not None else match["plain"] or ""
            lines.append((match["key"], _ESCAPE.sub(lambda code: chr(int(code[1], 16)), value), number))
        return cls(lines, tuple(unread))

    def get(self, key: str, default: str = "") -> str:
        """The value of a key, or the default."""
        return self._values.get(key.lower(), default)

    def items(self) -> Iterator[tuple[str, str, int]]:
        """(key as written, value, number of the line), in order."""
        return iter(self._lines)


def _text(data: bytes) -> str:
    declared = _ENCODING.search(data, 0, 1 << 16)
    codec = _CODECS.get(declared[1].decode("ascii", "replace").lower(), "utf-8") if declared else "utf-8"
    for attempt in (codec, "utf-8"):
        try:
            return data.decode(attempt)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
