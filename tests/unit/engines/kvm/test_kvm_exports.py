"""The end of a backup job whose abort libvirt reports before it has happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from triune.engines.kvm import exports
from triune.engines.kvm.client import Client
from triune.host import bindings


class Domain:
    """One with a backup job: the first aborts are refused, and the one that counts takes effect a few looks later."""

    def __init__(self, socket: Path, refused: int = 0, looks: int = 0) -> None:
        self.job = str(socket)
        self.aborts = 0
        self._refused = refused
        self._looks = looks

    def backupGetXMLDesc(self, flags: int) -> str:
        assert flags == 0
        if self.aborts > self._refused:
            self._looks -= 1
            if self._looks < 0:
                self.job = ""
        if not self.job:
            raise library.libvirtError("no domain backup job present")
        return f"<domainbackup><server socket='{self.job}'/></domainbackup>"

    def abortJob(self) -> None:
        self.aborts += 1
        if self.aborts <= self._refused:
            raise library.libvirtError("cannot acquire state change lock")


try:
    library = bindings.load("libvirt")
except ImportError:
    pytest.skip("libvirt's binding is not installed", allow_module_level=True)


def pull(domain: Domain, folder: Path) -> exports.Pull:
    return exports.Pull(Client("test:///default"), domain, "web", folder)


def test_the_end_waits_until_the_job_is_over(tmp_path: Path) -> None:
    domain = Domain(tmp_path / exports.SOCKET, looks=3)
    pull(domain, tmp_path).end()
    assert domain.job == ""
    assert domain.aborts == 1


def test_an_abort_that_was_refused_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_ASKED_AGAIN", 0.05)
    domain = Domain(tmp_path / exports.SOCKET, refused=2)
    pull(domain, tmp_path).end()
    assert domain.job == ""
    assert domain.aborts == 3


def test_a_job_that_never_ends_is_left_at_last_and_anothers_is_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_JOB_ENDS", 0.1)
    domain = Domain(tmp_path / exports.SOCKET, looks=1_000_000)
    pull(domain, tmp_path).end()
    assert domain.job != ""
    domain = Domain(Path("/run/another/tool.sock"))
    pull(domain, tmp_path).end()
    assert (domain.job, domain.aborts) == ("/run/another/tool.sock", 0)
