"""The command line as a whole: it starts light, and every command is documented."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.meta.sources import ROOT, documents, modules, tree
from tests.patience import PATIENCE

HEAVY = ("rich", "fastapi", "docker", "libvirt", "lxc", "pydantic", "uvicorn", "sqlite3", "yaml", "asyncio")
PROGRAM = """
import sys
sys.argv = ["triune", *sys.argv[1:]]
from triune.cli.main import run
status = run()
print("IMPORTED", *sorted({name.partition(".")[0] for name in sys.modules}))
sys.exit(status)
"""


def imported(*argv: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("IMPORTED"))
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "argv", [["--help"], ["rescue", "--help"], ["doctor", "--help"], ["setup", "--help"]], ids=" ".join
)
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    assert imported(*argv) & set(HEAVY) == set()


def commands(group: click.Group, context: click.Context, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None, f"{prefix}{word} is listed but cannot be loaded"
        if command.hidden:
            continue
        yield f"{prefix}{word}", command
        if isinstance(command, click.Group):
            inner = click.Context(command, parent=context, info_name=word)
            yield from commands(command, inner, f"{prefix}{word} ")


def all_commands() -> list[tuple[str, click.Command]]:
    from triune.cli.root import root

    return list(commands(root, click.Context(root, info_name="triune")))


def test_every_command_is_documented() -> None:
    text = "\n".join(path.read_text() for path in documents())
    undocumented = [name for name, _ in all_commands() if f"triune {name}" not in text]
    assert undocumented == []


def test_every_variable_that_is_read_is_documented() -> None:
    text = "\n".join(path.read_text() for path in documents())
    read = {
        node.value
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"TRIUNE_[A-Z_]+", node.value)
    }
    assert "TRIUNE_HOST" in read
    assert sorted(name for name in read if name not in text) == []


def test_every_setting_is_documented_with_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triune.app import Settings

    for name in ("TRIUNE_DATA", "TRIUNE_SOCKET", "TRIUNE_GROUP", "TRIUNE_FAKE_ENGINES"):
        monkeypatch.delenv(name, raising=False)
    text = (ROOT / "docs" / "SETTINGS.md").read_text().partition("```toml")[2].partition("```")[0]
    (tmp_path / "all.toml").write_text(text.replace('candidates = ["10.87.0.0/16"]', ""))
    documented, defaults = Settings.load(tmp_path / "all.toml"), Settings.load(tmp_path / "none.toml")
    assert documented == defaults
    fields = {
        field.name
        for kind in (defaults, defaults.engines, defaults.network, defaults.backup)
        for field in dataclasses.fields(kind)
    }
    assert {name for name in fields if not re.search(rf"^(?:\[?|# .*){name}\b", text, re.MULTILINE)} == set()


def test_every_command_and_option_says_what_it_does() -> None:
    silent = [name for name, command in all_commands() if not (command.help or command.short_help)]
    for name, command in all_commands():
        silent += [
            f"{name} {'/'.join(option.opts)}"
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden and not option.help
        ]
    assert silent == []


def test_make_help_shows_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("up", "down", "test", "test-quick", "bench", "lint", "format", "lock", "help"):
        assert f"  {target} " in shown
