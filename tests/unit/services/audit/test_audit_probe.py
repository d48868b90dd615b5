"""The probe's programs, run as somebody without rights: they say the same, and leave nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.services.audit import probing
from triune.services.audit.knowledge import knowledge

_SHARED = {"mount", "sysrq", "release-agent", "mknod"}


def ran(*argv: str) -> dict[str, int]:
    user = 65534 if os.geteuid() == 0 else None
    done = subprocess.run(
        argv,
        user=user,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd="/",
    )
    return probing.parse(done.stdout)


def left() -> list[Path]:
    return [path for folder in ("/tmp", "/run", "/var/tmp") for path in Path(folder).glob(".triune-probe-*")]


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="hardware: another processor")
def test_perl_and_python_agree() -> None:
    perl = ran("perl", "-e", probing._text("probe.pl"))
    python = ran(
        "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable,
        "-c",
        probing._text("probe.python"),
    )
    assert perl == python
    assert perl.keys() == {step.name for step in knowledge().steps} | {"user", "end"}
    assert perl["user"] != 0
    assert (perl["ptrace"], perl["end"]) == (0, 0)
    for step in ("mount", "mknod", "packet-socket", "unshare-mount"):
        assert perl[step] == 1, step
    assert left() == []


def test_a_shell_tells_the_same_of_what_it_can_try() -> None:
    perl, shell = ran("perl", "-e", probing._text("probe.pl")), ran("sh", "-c", probing._text("probe.sh"))
    assert shell.keys() == perl.keys()
    for step in _SHARED:
        if shell[step] != probing._UNTRIED:
            assert (shell[step] == 0) == (perl[step] == 0), step
    assert shell["keyctl"] == probing._UNTRIED
    assert left() == []
