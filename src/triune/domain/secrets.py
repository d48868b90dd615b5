"""Looking for passwords and keys in text that many can read. Only names are told, never values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

_WORD = r"(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|credentials?)"
_NAME = re.compile(rf"(?:^|[_\-.]){_WORD}(?:$|[_\-.\d])", re.IGNORECASE)
_LINE = re.compile(
    rf"^[\s\-]*[\"']?([\w.-]{{0,60}}?{_WORD}[\w.-]{{0,20}})[\"']?\s*[:=]\s*[\"']?(\S{{3,}})", re.IGNORECASE
)
_KEY = re.compile(r"-----BEGIN ((?:[A-Z]+ )*PRIVATE KEY)-----")
# Where the secret itself is elsewhere, or there is none.
_ELSEWHERE = re.compile(r"(?:_FILE|_PATH|_DIR|_URL)$", re.IGNORECASE)
_HARMLESS = re.compile(r"^(?:\$|\{\{|<|\*+[\"']?$|\$[0-9a-z]+\$|true|false|null|none|no|yes|!|x{3,})", re.IGNORECASE)
_PUBLIC = frozenset({"lock_passwd", "ssh_pwauth", "chpasswd", "passwd_expire"})
_MOST = 1 << 20


def in_variables(variables: Mapping[str, str]) -> Iterator[str]:
    """Names of variables that hold a secret by their name or by what they hold."""
    for key, value in variables.items():
        named = value and _NAME.search(key) and not _ELSEWHERE.search(key) and not _HARMLESS.match(value)
        if named or _KEY.search(value):
            yield key


def in_text(text: str) -> Iterator[str]:
    """What keys of a configuration (cloud-config, shell, INI) hold a secret, and private keys. Bounded: 1 MiB.

    A hashed password (`$6$…`) is not told: that is how it should be written.
    """
    seen: dict[str, None] = {}
    for line in text[:_MOST].splitlines():
        if key := _KEY.search(line):
            seen[key[1].lower()] = None
        elif (found := _LINE.match(line[:500])) and _tells(found[1], found[2]):
            seen[found[1]] = None
    yield from seen


def _tells(key: str, value: str) -> bool:
    return key.lower() not in _PUBLIC and not _ELSEWHERE.search(key) and not _HARMLESS.match(value)


def as_variables(lines: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` lines as a mapping."""
    return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}
