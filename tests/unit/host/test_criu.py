"""Whether CRIU works is asked of CRIU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import until

from triune.host import criu
from triune.host.run import environment

LOG = """(00.003211) Warn  (criu/kerndat.c:1103): $XDG_RUNTIME_DIR not set
(00.004100) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.010932) Error (criu/sk-inet.c:188): inet: Connected TCP socket, consider   using --tcp-established option.
(00.011022) Error (criu/cr-dump.c:1669): Dump files (pid: 42) failed with -1
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "criu"


def write(program: Path, script: str) -> None:
    program.write_text(f'#!/bin/sh\necho x >> {program.parent}/asked; [ "$1" = check ] || exit 9\n{script}\n')
    program.chmod(0o755)


def asked(program: Path) -> int:
    return len((program.parent / "asked").read_text().split())


def test_one_that_is_content_is_asked_once(program: Path) -> None:
    write(program, "echo Looks good.")
    assert criu.find(str(program.parent)) == program
    assert [criu.trouble(program), criu.trouble(program)] == [None, None]
    assert asked(program) == 1


def test_what_it_minds_is_told_and_another_program_asked_anew(program: Path) -> None:
    write(program, "echo 'Error (criu/vdso.c:665): vdso: Unexpected rt vDSO area bounds' >&2; exit 1")
    assert criu.trouble(program) == "criu check says: vdso: Unexpected rt vDSO area bounds"
    assert criu.trouble(program) is not None
    write(program, "echo something else; exit 3")
    assert criu.trouble(program) == "criu check says: something else"
    write(program, "exit 4")
    assert criu.trouble(program) == "criu check says: status 4"
    assert asked(program) == 3


def test_none_and_one_that_is_gone(program: Path) -> None:
    assert criu.find(str(program.parent)) is None
    assert criu.trouble(program) == f"{program} can't be read: No such file or directory"
    program.write_text("no program")
    program.chmod(0o755)
    assert (criu.trouble(program) or "").startswith("criu check could not be run")


def test_the_first_error_of_a_log_is_the_cause(tmp_path: Path) -> None:
    cause = "inet: Connected TCP socket, consider using --tcp-established option."
    assert criu.complaint(LOG) == cause
    assert criu.complaint("(00.1)    123: Error (criu/files.c:1): gone\n") == "gone"
    assert criu.complaint("all is well\n") is None
    (tmp_path / "log").write_text(LOG)
    assert criu.complaint_of(tmp_path / "log") == cause
    assert criu.complaint_of(tmp_path / "none") is None


def test_a_log_that_is_removed_is_read_nonetheless(tmp_path: Path) -> None:
    log = tmp_path / "work/restore.log"
    overheard = criu.Overheard(log)
    log.parent.mkdir()
    with log.open("w") as file:
        until(lambda: overheard._file is not None)
        log.unlink()
        file.write(LOG)
    assert (overheard.close() or "").startswith("inet: Connected TCP socket")
    assert criu.Overheard(log).close() is None


def test_the_engine_s_own_path_is_searched(tmp_path: Path) -> None:
    write(tmp_path / "criu", "echo Looks good.")
    listener = tmp_path / "engine.sock"
    script = """
import signal, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
open(sys.argv[2], "w").close()
signal.pause()
"""
    argv = [sys.executable, "-c", script, listener, tmp_path / "ready"]
    with subprocess.Popen(argv, env={"PATH": str(tmp_path)}) as engine:
        until((tmp_path / "ready").exists)
        try:
            assert criu.why_not({"ExperimentalBuild": True, "InitBinary": "/usr/bin/true"}, str(listener)) is None
        finally:
            engine.kill()
    assert criu._search_path(str(listener)) == environment()["PATH"]
