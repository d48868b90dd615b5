"""The doctor's table at the widths of real terminals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from triune.cli.findings import print_table, summary
from triune.cli.local import doctor
from triune.domain.errors import Invalid, Unsupported
from triune.domain.finding import Finding
from triune.host.probe import examine as examining
from triune.host.probe.view import missing, ok, warning

LONG = "A sentence that goes on and on, as sentences do when there is much to say of a host that is odd, " * 2
FINDINGS = [
    warning("network.neighbours", "network", LONG.strip() + ".", "echo x | tee /etc/y | sysctl -p -   # " + "z" * 120),
    ok("engines.docker", "engines", "Docker can run.", engine="docker", usable=True),
    missing("engines.kvm", "engines", "KVM cannot run: no QEMU.", "triune setup", engine="kvm", usable=False),
    missing("programs.kata", "programs", "Kata is not installed.", optional=True),
    ok("cpu.virtualization", "cpu", "A CPU with \x1b[31mred\nletters."),
]


def table(findings: Sequence[Finding], width: int) -> str:
    stream = io.StringIO()
    print_table(findings, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_sentences_wrap_and_commands_do_not(width: int) -> None:
    lines = table(FINDINGS, width).splitlines()
    commands = [line for line in lines if line.startswith("    $ ")]
    assert len(commands) == 2
    assert commands[1].rstrip().endswith("z" * 120), "one line to copy"
    sentences = [line for line in lines if line.startswith("  ") and line not in commands]
    assert max(map(len, sentences)) <= width


def test_order_marks_and_summary() -> None:
    said = table(FINDINGS, 80)
    titles = [line for line in said.splitlines() if line and not line.startswith(" ")]
    assert titles[:4] == ["Engines", "Processor", "Network", "Programs"]
    assert "  ✔ Docker can run." in said
    assert "  ✘ KVM cannot run: no QEMU." in said
    assert "  – Kata is not installed." in said
    assert summary(FINDINGS) == "2 ok, 1 warning, 1 missing, 1 optional"


def test_nothing_steers_the_terminal() -> None:
    assert "\x1b" not in table(FINDINGS, 80)
    assert "\\x1b[31mred\\nletters" in table(FINDINGS, 80)


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr(examining, "examine", lambda: FINDINGS)
    return CliRunner()


def test_formats(canned: CliRunner) -> None:
    as_json = json.loads(canned.invoke(doctor, ["--format", "json"]).stdout)
    assert [finding["id"] for finding in as_json] == [finding.id for finding in FINDINGS]
    assert as_json[2] == {
        "id": "engines.kvm",
        "area": "engines",
        "status": "missing",
        "sentence": "KVM cannot run: no QEMU.",
        "fix": "triune setup",
        "facts": {"engine": "kvm", "usable": False},
    }
    assert yaml.safe_load(canned.invoke(doctor, ["--format", "yaml"]).stdout) == as_json
    rows = list(csv.DictReader(io.StringIO(canned.invoke(doctor, ["--format", "csv"]).stdout)))
    assert [row["status"] for row in rows] == ["warning", "ok", "missing", "missing", "ok"]


def test_requiring_engines(canned: CliRunner) -> None:
    assert canned.invoke(doctor, []).exit_code == 0, "reading is no failure, whatever is found"
    assert canned.invoke(doctor, ["--require", "docker"]).exit_code == 0
    unusable = canned.invoke(doctor, ["--require", "docker", "--require", "kvm"]).exception
    assert isinstance(unusable, Unsupported)
    assert (unusable.exit_code, unusable.hint) == (6, "Run: triune setup")
    assert isinstance(canned.invoke(doctor, ["--require", "xen"]).exception, Invalid)
