"""Crash points: by name, or by a file that names one meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import pathlib, sys
from triune.host.faults import crash_point
crash_point("launch:create")
pathlib.Path(sys.argv[1]).write_text("launch:start\\n")
crash_point("launch:create")
print("on", flush=True)
crash_point("launch:start")
print("never", flush=True)
"""


def ran(crash_at: str, file: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file)],
        env={"TRIUNE_CRASH_AT": crash_at, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_by_name(tmp_path: Path) -> None:
    file = tmp_path / "at"
    assert ran("launch:create", file) == (-signal.SIGKILL, "")
    assert ran("launch:start", file) == (-signal.SIGKILL, "on\n")
    assert ran("", file) == (0, "on\nnever\n")


def test_by_a_file_that_comes_later(tmp_path: Path) -> None:
    file = tmp_path / "at"
    assert ran(str(file), file) == (-signal.SIGKILL, "on\n")
