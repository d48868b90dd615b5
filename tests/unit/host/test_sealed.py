"""A program's sealed copy: it runs, nobody writes to it, a kernel that is busy is asked again."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from triune.host import sealed

REAL = fcntl.fcntl


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of the host's, by the name `told`."""
    monkeypatch.setattr(sealed, "environment", lambda: {"PATH": str(tmp_path)})
    return write(tmp_path / "told", "/bin/echo")


def write(path: Path, like: str) -> Path:
    path.write_bytes(Path(like).read_bytes())
    path.chmod(0o755)
    return path


def run(path: str) -> str:
    return subprocess.run([path, "said"], capture_output=True, text=True, check=True).stdout


def test_it_runs_and_is_the_same_each_time(program: Path) -> None:
    path = sealed.executable("told")
    assert path.startswith(f"/proc/{os.getpid()}/fd/")
    assert sealed.executable("told") == path
    assert run(path) == "said\n"
    with Path(path).open("rb") as copy:
        assert fcntl.fcntl(copy.fileno(), fcntl.F_GET_SEALS) == sealed.SEALS
        assert copy.read() == program.read_bytes()
    with pytest.raises(PermissionError):
        os.pwrite(int(path.rpartition("/")[2]), b"x", 0)


def test_a_new_version_has_a_copy_of_its_own(program: Path) -> None:
    before = sealed.executable("told")
    program.unlink()
    write(program, "/bin/true")
    assert sealed.executable("told") != before
    assert run(sealed.executable("told")) == ""
    assert run(before) == "said\n"


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(("busy", "copied"), [(2, True), (99, False)])
def test_a_page_that_is_held_for_a_moment(monkeypatch: pytest.MonkeyPatch, busy: int, copied: bool) -> None:
    left = [OSError(errno.EBUSY, "busy")] * busy

    def held(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_ADD_SEALS and left:
            raise left.pop()
        return REAL(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", held)
    monkeypatch.setattr(sealed.time, "sleep", lambda _seconds: None)
    before = len(list(Path("/proc/self/fd").iterdir()))
    path = sealed.executable("told")
    assert (path != "told") == copied
    assert len(list(Path("/proc/self/fd").iterdir())) == before + copied


def test_what_the_host_has_not(program: Path) -> None:
    program.unlink()
    assert sealed.executable("told") == "told"


@pytest.mark.usefixtures("program")
def test_memory_that_nothing_may_be_run_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: not path.startswith("/proc/self/fd/"))
    assert sealed.executable("told") == "told"
