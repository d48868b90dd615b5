"""The host's package sources, in both formats, and which of them are the distribution's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.host import apt

DEBIAN = frozenset({"debian", "debian-security"})

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: https://third.example/linux/debian
Suites: bookworm
Components: stable

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""
LINES = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://sec.example/debian-security bookworm-security main # c
deb-src http://mirror.example/debian bookworm main
deb https://party.example bookworm main
"""


def etc(tmp_path: Path, deb822: str = "", lines: str = "") -> Path:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(lines)
    (tmp_path / "sources.list.d/debian.sources").write_text(deb822)
    return tmp_path


def test_only_the_distributions_own_archive_for_the_wanted_release(tmp_path: Path) -> None:
    sources = apt.host_sources(etc(tmp_path, DEB822, LINES))
    assert len(sources) == 4
    chosen = apt.archive_sources(sources, codename="bookworm", suite="trixie", folders=DEBIAN)
    assert [(source.uris, source.suites) for source in chosen] == [
        (("http://sec.example/debian-security",), ("trixie-security",)),
        (("http://mirror.example/debian/",), ("trixie", "trixie-updates")),
    ]
    assert chosen[0].signed_by == "/usr/share/keyrings/x.gpg"
    assert all(source.components == ("main",) for source in chosen)


def test_a_stanza_is_read_back_as_it_was(tmp_path: Path) -> None:
    first = apt.host_sources(etc(tmp_path, DEB822))[0]
    again = tmp_path / "again"
    again.mkdir()
    assert apt.host_sources(etc(again, first.stanza()))[0] == first
    assert "BEGIN PGP" in first.signed_by


@given(st.text(max_size=400))
def test_nonsense_is_left_out(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = etc(tmp_path_factory.mktemp("etc"), text, text)
    for source in apt.host_sources(folder):
        assert source.stanza().startswith("Types: deb\n")
