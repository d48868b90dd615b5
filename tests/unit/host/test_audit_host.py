"""What audits read of the host: processes, sockets, packages."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import pytest

from triune.host import confinement, doors, mounted, packages


def test_a_process_of_ours() -> None:
    found = confinement.of(os.getpid())
    assert {"pid", "net", "uts"} <= set(found.shared)
    assert found.mapped is False or os.geteuid() != 0
    assert found.id_map
    with pytest.raises(OSError, match="No such"):
        confinement.of(2**22 + 1)


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "attr").mkdir()
    assert confinement.label(tmp_path) == ""
    for text, expected in (("unconfined\n", ""), ("docker-default (enforce)\n", "docker-default (enforce)")):
        (tmp_path / "attr/current").write_text(text)
        assert confinement.label(tmp_path) == expected


def test_sockets(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    assert doors.socket_file(path) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o660)
        found = doors.socket_file(path)
        assert found is not None
        assert (found.kind, found.mode, found.local) == ("unix", 0o660, True)
        assert mounted.shown(str(path), "/x", read_only=False).kind == "socket"
    assert mounted.shown("/dev/null", "/x", read_only=False).kind == "device"
    assert mounted.shown("/no/such", "/x", read_only=False).kind == "folder"
    (tmp_path / "plain").touch()
    assert doors.socket_file(tmp_path / "plain") is None


def test_ports_by_their_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        name = Path("/proc/self/comm").read_text().strip()
        (found,) = doors.ports([port], name, guarded=[port])
        assert (found.address, found.guarded) == (f"127.0.0.1:{port}", True)
        assert doors.ports([port], "another") == []


def test_changelogs(tmp_path: Path) -> None:
    folder = tmp_path / "runc"
    folder.mkdir()
    assert packages.mended("runc", tmp_path) == frozenset()
    path = folder / "changelog.Debian.gz"
    path.write_bytes(gzip.compress(b"runc (1.1.5)\n  * Fix CVE-2024-21626 and CVE-2019-5736\n"))
    assert packages.mended("runc", tmp_path) == {"CVE-2024-21626", "CVE-2019-5736"}
    path.write_bytes(b"no gzip at all")
    os.utime(path, (1, 1))
    assert packages.mended("runc", tmp_path) == frozenset()
    assert packages.mended("../etc", tmp_path) == frozenset()
    assert packages.installed("../etc") == packages.installed("no-such-package-at-all") == ""
