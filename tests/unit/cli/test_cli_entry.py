"""The entry point: what it imports, which exit code each error has, how usage errors look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from triune.cli import main
from triune.cli.listing import lean
from triune.cli.problems import tell
from triune.domain.errors import KINDS, Invalid, NotFound, TriuneError, Unreachable, from_dict

CODES = {
    "Invalid": 2,
    "NotFound": 3,
    "Conflict": 4,
    "Stale": 4,
    "Denied": 5,
    "Unsupported": 6,
    "Unreachable": 7,
    "Cancelled": 1,
    "Failed": 1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_has_its_exit_code_sentence_and_hint(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise KINDS[kind]("some_code", "the web is\x1b[2J away", hint="look there")

    monkeypatch.setattr(main, "_lean", fail)
    assert main.run() == CODES[kind]
    said = capsys.readouterr().err
    assert said == "error: the web is\\x1b[2J away\nhint: look there\ncode: some_code\n"


def test_a_bug_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(ValueError("x\ny")) == 1
    assert "unexpected ValueError: x\\ny" in capsys.readouterr().err


def test_several_at_once_are_told_by_name_and_leftovers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    left = [{"kind": "instance", "data": {"name": "a"}, "reason": "disk busy"}, "nonsense"]
    tell(TriuneError("x", "it failed", leftovers=left), name="web")
    said = capsys.readouterr().err
    assert said.startswith("error: web: it failed")
    assert "left over: instance {'name': 'a'}: disk busy" in said


@pytest.mark.parametrize("words", [["show", "\udcff"], ["exec", "web", "--", "printf", "a\udcff"], ["\udcff"]])
def test_arguments_that_are_no_text_are_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["triune", *words])
    assert main.run() == 2
    assert f"argument {len(words)} is not UTF-8 text" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_lean", fail)
    assert main.run() == 130


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--nope"], ["--format"], ["--format", "xml"], ["extra"], ["-q=1"], ["--filter"]]
)
def test_the_quick_list_leaves_what_it_does_not_know_to_click(arguments: list[str]) -> None:
    assert lean(arguments) is None


def test_the_quick_list_takes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIUNE_HOST", "/nonexistent/socket")
    for arguments in ([], ["-q"], ["--format", "json"], ["--format=csv", "--quiet"], ["--filter", "engine=lxc"]):
        with pytest.raises(Unreachable):
            lean(arguments)


def modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=False,
    )
    return set(done.stdout.split("\n")[-2].split()) if done.stdout else set()


def test_the_quick_list_imports_nothing_costly() -> None:
    code = (
        "sys.argv = ['triune', 'list']\n"
        "import os; os.environ['TRIUNE_HOST'] = '/nonexistent'\n"
        "from triune.cli.main import _lean\n"
        "try: _lean(['list'])\nexcept Exception: pass"
    )
    found = modules(code)
    assert "triune.sdk.transport" in found
    costly = {"click", "rich", "http.client", "email", "typing", "dataclasses", "pydantic", "asyncio", "ssl", "yaml"}
    assert not found & costly


def test_help_imports_no_command() -> None:
    found = modules("from triune.cli.root import main\nmain(['--help'])")
    assert "click" in found
    mine = {name for name in found if name.startswith("triune.cli.")}
    assert mine == {"triune.cli.root", "triune.cli.lazy", "triune.cli.text"}
    assert not found & {"rich", "pydantic", "asyncio", "triune.sdk.client"}


def test_a_scan_that_finds_nothing_imports_only_what_it_needs(tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.write_bytes(bytes(65536))
    found = modules(f"from triune.cli.root import main\nmain(['rescue', 'scan', {str(empty)!r}])")
    assert "triune.services.rescue.scan" in found
    assert not found & {"numpy", "rich", "triune.disks.vmfs.volume", "triune.sdk.transport"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "Did you mean 'list'"),
        (["launch"], "missing argument"),
        (["list", "--format", "xml"], "invalid value"),
        (["stop", "web", "--timeout", "soon"], "is not a duration"),
        (["show", "a", "b"], "unexpected extra argument"),
    ],
)
def test_usage_errors_exit_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from triune.cli.root import main as click_main

    assert click_main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert "hint: triune" in error


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["launch", "debian/12", "web", "--memory", "lots"], Invalid),
        (["launch", "debian/12", "web", "--cpus", "-1"], Invalid),
        (["launch", "debian/12", "web", "--env", "A"], Invalid),
        (["launch", "debian/12", "web", "--set", "user-data=/nonexistent"], Invalid),
        (["rm", "web"], Invalid),
        (["show", "web"], Unreachable),
    ],
)
def test_wrong_values_are_errors_with_hints(
    arguments: list[str], kind: type[TriuneError], monkeypatch: pytest.MonkeyPatch
) -> None:
    from triune.cli.root import main as click_main

    monkeypatch.setenv("TRIUNE_HOST", "/nonexistent/socket")
    monkeypatch.setattr("os.isatty", lambda number: False)
    with pytest.raises(kind) as caught:
        click_main(arguments)
    assert caught.value.hint
    assert not isinstance(caught.value, NotFound)


def test_a_modules_own_error_is_told_as_the_kind_it_is_of() -> None:
    class TimedOut(Unreachable):
        """No answer in time."""

    told = from_dict(TimedOut("engine_unreachable", "it does not answer", hint="start it").as_dict())
    assert type(told) is Unreachable
    assert told.exit_code == 7
