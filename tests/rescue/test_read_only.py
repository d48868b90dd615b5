"""Nothing here writes to a source: not a byte, not a time, and no file of it is ever opened for writing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.rescue.overlay import Overlay

# In the process that is watched: every open of a file is told, with its flags.
WATCH = """
import os, sys
def told(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].endswith(".img"):
        flags = args[2] or 0
        mode = args[1] or ""
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_APPEND) or set(mode) & set("wax+"):
            os.write(2, f"WRITES {args}\\n".encode())
        else:
            os.write(2, b"READS\\n")
sys.addaudithook(told)
from triune.cli.main import run
sys.argv = ["triune", *sys.argv[1:]]
run()
"""
COMMANDS = [
    ("rescue", "ls", "-R", "{}"),
    pytest.param(("rescue", "scan", "{}"), marks=pytest.mark.heavy),
    pytest.param(("rescue", "extract", "{}", "--to", "{to}"), marks=pytest.mark.heavy),
]


@pytest.mark.parametrize("words", COMMANDS, ids=["ls", "scan", "extract"])
def test_no_command_opens_its_source_for_writing(
    image: Callable[[str], Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    source = _copy(image("vmfs3"), tmp_path)
    before = _facts(source)
    argv = [word.format(source, to=tmp_path / "out") for word in words]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        cwd=tmp_path,
    )
    assert "READS" in done.stderr, done.stdout + done.stderr
    assert "WRITES" not in done.stderr
    assert _facts(source) == before


def _copy(image: Path, folder: Path) -> Path:
    """One that could be written to, so that nothing but the rescue itself keeps it as it is."""
    target = folder / "source.img"
    subprocess.run(["cp", "--sparse=always", str(image), str(target)], check=True)
    target.chmod(0o666)
    os.utime(target, ns=(1_000_000_000, 1_000_000_000))
    return target


def _facts(path: Path) -> tuple[int, int, int, str]:
    facts = path.stat()
    held = sha256()
    disk = Overlay(path)
    for at, length in disk.data(0, disk.size):
        held.update(b"%d" % at + disk.read(at, length))
    disk.close()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, held.hexdigest()
