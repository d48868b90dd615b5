"""Where this host gets its packages from: apt's own sources, in both of their formats.

Formats: sources.list(5). Entries are handed on as deb822 stanzas.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from triune.domain.errors import Failed, TriuneError
from triune.host.run import run

_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+[^\s#]+)*)")
# What a package manager run for another root needs of the host's configuration: the way out, and trust in clocks.
_HANDED_ON = ("Acquire::http", "Acquire::https", "Acquire::ftp", "Acquire::Retries", "Acquire::Check-")
_OPTION = re.compile(r'(?P<key>[A-Za-z][\w:.@/-]*) "(?P<value>[^"\x00-\x1f]*)";')


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One stanza. `signed_by` is a key ring's path or an inline key as deb822 writes it; empty: apt's trusted ones."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def stanza(self) -> str:
        """The entry in deb822 form."""
        lines = [
            "Types: deb",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {' '.join(self.components)}",
        ]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def host_release() -> tuple[str, str]:
    """The distribution's id and code name (`debian`, `bookworm`); empty where os-release does not tell."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    return release.get("ID", ""), release.get("VERSION_CODENAME", "")


def host_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """Every enabled binary source. Entries that are not understood are left out."""
    found: list[Source] = []
    folder = etc / "sources.list.d"
    files = [etc / "sources.list", *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found += _stanzas(text) if path.suffix == ".sources" else _lines(text)
    return found


def archive_sources(sources: list[Source], *, codename: str, suite: str, folders: frozenset[str]) -> list[Source]:
    """Those that are the distribution's own archive, for `suite` in place of the host's `codename`.

    An archive is known by the last folder of its address (`folders`), by its component `main`, and by suites named
    after the release; a third party's repository for the same release has none or only some of these.
    """
    chosen: list[Source] = []
    wanted = {codename, f"{codename}-updates", f"{codename}-security"}
    for source in sources:
        uris = tuple(uri for uri in source.uris if urlsplit(uri).path.rstrip("/").rpartition("/")[2] in folders)
        suites = tuple(suite + name.removeprefix(codename) for name in source.suites if name in wanted)
        if uris and suites and "main" in source.components:
            chosen.append(replace(source, uris=uris, suites=suites, components=("main",)))
    return chosen


def handed_on_options() -> str:
    """The host's proxy, retry and date settings as apt configuration text."""
    try:
        text = run(["apt-config", "dump"], timeout=20).text
    except TriuneError as error:
        raise Failed("no_apt", "this host's apt configuration can't be read", hint=error.hint) from error
    kept: list[str] = []
    for line in text.splitlines():
        match = _OPTION.fullmatch(line)
        if match and match["value"] and match["key"].startswith(_HANDED_ON):
            kept.append(line)
    return "\n".join(kept) + "\n"


def _lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if not match:
            continue
        options = dict(part.split("=", 1) for part in (match["options"] or "").split() if "=" in part)
        yield Source(
            uris=(match["uri"],),
            suites=(match["suite"],),
            components=tuple(match["components"].split()),
            signed_by=options.get("signed-by", ""),
        )


def _stanzas(text: str) -> Iterator[Source]:
    for block in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and key:
                fields[key] += "\n" + line
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() not in ("no", "false"):
            yield Source(
                uris=tuple(fields.get("uris", "").split()),
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", ""),
            )
