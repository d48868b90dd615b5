"""TRIUNE_REQUIRE: a skipped test of a required engine is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy  # a pytest in a pytest

CONFTEST = Path(__file__).parent.parent / "conftest.py"
TESTS = """
import pytest
pytestmark = pytest.mark.kvm

def test_engine():
    pytest.skip("no QEMU here")

def test_hardware():
    pytest.skip("hardware: no IOMMU")

@pytest.mark.xfail(reason="known")
def test_expected():
    assert False

def test_passes():
    pass
"""
MODULE = 'import pytest\npytest.skip("no lxc", allow_module_level=True)\n'


def outcomes(folder: Path, required: str) -> str:
    (folder / "live").mkdir()
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = kvm\n")
    (folder / "test_kvm.py").write_text(TESTS)
    (folder / "live" / "test_module.py").write_text(MODULE)
    argv = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    env = {**os.environ, "TRIUNE_REQUIRE": required}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False).stdout


def test_skips_are_skips_without_it(tmp_path: Path) -> None:
    assert "1 passed, 3 skipped, 1 xfailed" in outcomes(tmp_path, "")


def test_skips_of_required_engines_fail(tmp_path: Path) -> None:
    said = outcomes(tmp_path, "kvm,lxc")
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error" in said
    assert "no QEMU here" in said
    assert "no lxc" in said


@pytest.mark.parametrize("required", ["lxc", "docker"])
def test_other_engines_may_be_missing(tmp_path: Path, required: str) -> None:
    assert "2 skipped" in outcomes(tmp_path, required)
