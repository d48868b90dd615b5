"""House rules that no linter holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.sources import ROOT, documents, functions, modules, name, tree
from tests.patience import PATIENCE

BIN = Path(sys.executable).parent
ENGINES = frozenset({"kvm", "lxc", "docker"})

# Where an engine may be called by its name, and why. Everything else asks the protocol.
NAMES_ALLOWED = {
    "engines/": "the engines themselves and their registry",
    "cli/demo.py": "the demo has one of each",
    "cli/trio.py": "the demo has one of each",
    "cli/options.py": "the words that --engine takes",
    "cli/serve.py": "the name of the Docker SDK's logger",
    "host/bindings.py": "the names of Python modules",
    "host/kvm.py": "QEMU's name of its accelerator",
    "host/probe/": "what doctor looks for, by the programs' names",
    "host/setup/": "what setup installs and starts, by the programs' names",
}


@pytest.mark.parametrize(
    "argv",
    [["ruff", "check", "--quiet"], ["ruff", "format", "--check", "--quiet"], ["lint-imports"], ["mypy"]],
    ids=lambda argv: argv[0],
)
def test_linters_pass(argv: list[str]) -> None:
    done = subprocess.run(
        [str(BIN / argv[0]), *argv[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_functions_and_files_stay_readable() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in modules()
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > 80
    ]
    big = [name(path) for path in modules() if len(path.read_text().splitlines()) > 800]
    assert (long, big) == ([], [])


def test_engines_are_called_by_name_only_in_their_own_place() -> None:
    found = []
    for path in modules():
        if any(name(path).startswith(place) for place in NAMES_ALLOWED):
            continue
        found += [
            f"{name(path)}:{node.lineno} {node.value!r}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ENGINES
        ]
    assert found == []


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_no_shell_and_no_eval() -> None:
    forbidden = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec"}
    found = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            shell = any(word.arg == "shell" and getattr(word.value, "value", True) for word in node.keywords)
            if _called(node) in forbidden or shell:
                found.append(f"{name(path)}:{node.lineno} {ast.unparse(node)[:80]}")
    assert found == []


def test_each_kind_of_intent_has_one_handler() -> None:
    """Another's handler would undo or finish something else."""
    kinds = [
        match for path in modules() for match in re.findall(r"""\bhandlers\[["']([^"']+)["']\] =""", path.read_text())
    ]
    assert len(kinds) > 5
    assert sorted(kinds) == sorted(set(kinds))


def test_public_modules_say_what_they_are() -> None:
    silent = [name(path) for path in modules() if path.name != "__init__.py" and ast.get_docstring(tree(path)) is None]
    assert silent == []


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_documents_name_no_machine_of_a_developer(path: Path) -> None:
    private = re.findall(r"(?:/home/\w+|/work/|/var/tmp/|/root/)[\w./-]*", path.read_text())
    assert private == []


def test_no_code_or_test_needs_a_folder_of_a_developer() -> None:
    pattern = re.compile(r"/(?:work|var/tmp/lab)/")
    found = [
        str(path.relative_to(ROOT))
        for folder in ("src", "tests", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sh", ".toml", ".service") and path != Path(__file__)
        if pattern.search(path.read_text(errors="replace"))
    ]
    assert found == []


def test_licence_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "GNU AFFERO GENERAL PUBLIC LICENSE" in text
    assert len(text.splitlines()) > 600


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock", "requirements-build.lock"])
def test_locks_are_hashed_and_name_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?://|file:/|--(extra-)?index-url|--find-links|--trusted-host", text)
    pinned = re.findall(r"^([\w.-]+)==\S+( \\)?$", text, re.MULTILINE)
    assert pinned
    assert all(goes_on for _, goes_on in pinned), "every requirement is followed by its hashes"


def test_locks_hold_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {"requirements.lock": project["project"]["dependencies"]}
    wanted["requirements-dev.lock"] = project["dependency-groups"]["dev"]
    wanted["requirements-build.lock"] = project["build-system"]["requires"]
    for lock, requirements in wanted.items():
        locked = {_plain(line) for line in re.findall(r"^([\w.-]+)==", (ROOT / lock).read_text(), re.MULTILINE)}
        names = {_plain(re.split(r"[<>=~!\[; ]", requirement)[0]) for requirement in requirements}
        assert names <= locked, f"{lock}: run make lock"


def _plain(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def test_ci_runs_make_test() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines() == ["#!/usr/bin/env bash", "set -euo pipefail", "make test"]


def test_no_folder_of_tests_shadows_a_package() -> None:
    """pytest puts the folder of a test file on the path: beside `lxc/` it would be what `import lxc` finds."""
    assert not list((ROOT / "tests/unit/engines").glob("*.py"))
