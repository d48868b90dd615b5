"""A machine's settings out of its vmware.log, where the VMX is lost.

At each start the log gets every setting in a line of its own: `DICT --- CONFIGURATION`, perhaps with the VMX's path,
then `DICT           displayName = "web"` (older products without quotes) until the next `DICT ---`. Source of the
format: logs of Workstation 5 to 16, Server and ESXi. What was changed while the machine ran is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from triune.disks.vmware_text import decode
from triune.disks.vmx import Vmx, escaped

LARGEST = 256 << 20
_MOST_SETTINGS = 1 << 14
# Jan 24 00:37:47: vmx| DICT …   2021-02-20T11:50:10.598+08:00| vmx| I125: DICT …   …Z In(05) vmx - DICT …
_LEAD = rb"^(?P<lead>[^\r\n]{0,120}?)\bDICT"
_SECTION = re.compile(_LEAD + rb" --- (?P<name>[A-Z][A-Z ]*[A-Z])(?: (?P<path>[^\r\n]*?))?[ \t]*\r?$", re.MULTILINE)
_SETTING = re.compile(
    _LEAD + rb" {1,60}(?P<key>[^\s=\"]{1,512}) ?= ?(?P<value>[^\r\n]*?)[ \t]*\r?$",
    re.MULTILINE,
)
_WANTED = b"CONFIGURATION"


@dataclass(frozen=True, slots=True)
class LoggedMachine:
    """What the last start told. `path` is where the VMX was, empty where the log doesn't say; `complete` says that the
    end of the settings was seen."""

    vmx: Vmx
    path: str
    settings: int
    complete: bool


def settings_of(log: bytes) -> LoggedMachine | None:
    """The machine as of its last start in the log; None where none is told."""
    log = log[:LARGEST]
    sections = list(_SECTION.finditer(log))
    last = next((number for number in reversed(range(len(sections))) if sections[number]["name"] == _WANTED), None)
    if last is None:
        return None
    begin, follows = sections[last], sections[last + 1] if last + 1 < len(sections) else None
    end = follows.start() if follows else len(log)
    known: dict[bytes, tuple[bytes, bytes]] = {}
    for number, found in enumerate(_SETTING.finditer(log, begin.end(), end)):
        if number >= _MOST_SETTINGS:
            break
        known[found["key"].lower()] = found["key"], _unquoted(found["value"])
    if not known:
        return None
    text, codec = decode(b"\n".join(key + b' = "' + value + b'"' for key, value in known.values()))
    lines = [line for line in text.split("\n") if not line.lower().startswith(".encoding")]
    if any(not each.isascii() for each in text) and codec == "latin-1":
        codec = "utf-8"
    vmx = Vmx("\n".join([f'.encoding = "{_declared(known, codec)}"', *lines, ""]), codec)
    path = decode(begin["path"] or b"")[0].strip()
    return LoggedMachine(vmx, path, len(known), complete=follows is not None)


def _unquoted(value: bytes) -> bytes:
    if len(value) >= 2 and value.startswith(b'"') and value.endswith(b'"'):
        return value[1:-1]
    return escaped(value.decode("latin-1")).encode("latin-1") if b'"' in value else value


def _declared(known: dict[bytes, tuple[bytes, bytes]], codec: str) -> str:
    declared = known.get(b".encoding", (b"", b""))[1].decode("ascii", "replace")
    return declared if declared and codec not in ("utf-8", "latin-1") else "UTF-8"
