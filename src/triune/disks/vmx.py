"""VMX, VMTX and their like (.vmxf's older form, .vmsd): `key = "value"` lines that describe a machine.

Source of the format: files that ESXi and Workstation wrote. `#` begins a comment line. In a value `|22` stands for the
character with that hexadecimal number (VMware writes `"`, `|` and line breaks so). A file says its encoding in
`.encoding`; unknown ones are read as UTF-8, or Latin-1 where that fails. What is read can be written again byte
for byte, for lines that say nothing known are kept too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from triune.disks.vmware_text import decode
from triune.domain.errors import Invalid

LARGEST = 4 << 20
_MOST_LINES = 1 << 16
_LINE = re.compile(r'^\s*(?P<key>[^\s=#"][^\s="]{0,511})\s*=\s*(?:"(?P<quoted>[^"]*)"|(?P<plain>[^"\s].*?))?\s*$')
_ESCAPED = frozenset('"|')
_ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")


class Vmx:
    """The lines of one, in order. Keys are looked up without regard to case; the last of the same counts.

    `unread` are the numbers of lines that say nothing that can be read.
    """

    def __init__(self, text: str = "", codec: str = "utf-8") -> None:
        """Read a text; `codec` is what it is encoded with. What lies behind 65,536 lines is kept, and not looked at."""
        self.codec = codec
        self._raw = text.split("\n")
        self._end = "\r" if self._raw[0].endswith("\r") else ""
        self._look()

    def _look(self) -> None:
        lines, unread = [], []
        for number, line in enumerate(self._raw[:_MOST_LINES], 1):
            stripped = line.strip("\ufeff\r\t \0")
            if not stripped or stripped.startswith("#"):
                continue
            match = _LINE.match(stripped)
            if match is None:
                unread.append(number)
                continue
            value = match["quoted"] if match["quoted"] is not None else match["plain"] or ""
            lines.append((match["key"], _ESCAPE.sub(lambda code: chr(int(code[1], 16)), value), number))
        self._lines = lines
        self._values = {key.lower(): value for key, value, _ in lines}
        self.unread = tuple(unread)

    @classmethod
    def parse(cls, data: bytes) -> Vmx:
        """Read it. Raises Invalid("bad_vmx") where it is no text of this kind, or far too large."""
        if len(data) > LARGEST or b"\0" in data.rstrip(b"\0"):
            raise Invalid("bad_vmx", "the VMX is no text, or far too large", hint="Is it the right file?")
        return cls(*decode(data))

    def unread_lines(self) -> Iterator[tuple[int, str]]:
        """The lines that say nothing that can be read, with their numbers."""
        return ((number, self._raw[number - 1].strip()) for number in self.unread)

    def encode(self) -> bytes:
        """The file's bytes: of one that was only read, the very same."""
        return "\n".join(self._raw).encode(self.codec, "replace")

    @property
    def encrypted(self) -> bool:
        """Whether the machine's settings are encrypted: nothing but its name and the keys' safe can be read."""
        return "encryption.keysafe" in self._values

    def set(self, key: str, value: str) -> None:
        """Change the line that counts, or add one at the end."""
        line = f'{key} = "{escaped(value)}"{self._end}'
        number = self._number(key)
        if number is not None:
            self._raw[number - 1] = line
        elif self._raw[-1].strip("\r\t \0"):
            self._raw.append(line)
        else:
            self._raw[-1:] = [line, ""]
        self._look()

    def remove(self, key: str) -> None:
        """Take out all lines of a key."""
        while (number := self._number(key)) is not None:
            del self._raw[number - 1]
            self._raw = self._raw or [""]
            self._look()

    def _number(self, key: str) -> int | None:
        return next((number for known, _, number in reversed(self._lines) if known.lower() == key.lower()), None)

    def get(self, key: str, default: str = "") -> str:
        """The value of a key, or the default."""
        return self._values.get(key.lower(), default)

    def items(self) -> Iterator[tuple[str, str, int]]:
        """(key as written, value, number of the line), in order."""
        return iter(self._lines)


def escaped(value: str) -> str:
    """A value as it stands between quotes."""
    return "".join(f"|{ord(each):02X}" if each in _ESCAPED or ord(each) < 32 else each for each in value)
