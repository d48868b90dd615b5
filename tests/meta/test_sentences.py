"""What Triune says: sentences that begin alike, a next step for each error, and no command that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.meta.sources import PACKAGE, documents, modules, name, tree
from triune.cli.root import root
from triune.domain.errors import KINDS

# How a sentence may begin although it begins upper-case.
PROPER = ("Docker", "VMDK", "OCI", "QEMU", "KVM", "LXC", "DHCP", "DNS", "IPv4", "SSH", "AppArmor", "Debian", "Triune")


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def text(node: ast.expr | None) -> str | None:
    """The text of a literal, X for each value in it; None for what is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp):
        return (text(node.left) or "X") + (text(node.right) or "X")
    return None


def is_literal_start(node: ast.expr | None) -> bool:
    first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    return isinstance(first, ast.Constant)


def begins_wrongly(node: ast.expr | None) -> bool:
    said = text(node)
    return bool(said) and is_literal_start(node) and said[0].isupper() and not said.startswith(PROPER)  # type: ignore[index]


def errors() -> Iterator[tuple[str, ast.Call]]:
    for path, node, called in calls():
        if called in KINDS and len(node.args) > 1:
            yield f"{name(path)}:{node.lineno}", node


def test_steps_and_sentences_begin_lower_case() -> None:
    wrong = [
        f"{name(path)}:{node.lineno} {text(node.args[-1])}"
        for path, node, called in calls()
        if called.endswith((".step", ".report")) and len(node.args) == 2 and begins_wrongly(node.args[1])
    ]
    wrong += [f"{where} {text(node.args[1])}" for where, node in errors() if begins_wrongly(node.args[1])]
    assert wrong == []


def test_sentences_end_without_a_period() -> None:
    assert [where for where, node in errors() if (text(node.args[1]) or "").endswith(".")] == []


def test_every_error_has_a_next_step() -> None:
    lacking = []
    for where, node in errors():
        hints = [word.value for word in node.keywords if word.arg == "hint"]
        if not hints or text(hints[0]) == "":
            lacking.append(where)
        elif is_literal_start(hints[0]) and (text(hints[0]) or "X")[0].islower():
            lacking.append(f"{where} begins lower-case")
    assert lacking == []


def literals() -> Iterator[tuple[str, str]]:
    """Every text of the sources but the docstrings, and where it is."""
    for path in modules():
        module = tree(path)
        silent = {
            id(node.value)
            for node in ast.walk(module)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        inner = {
            id(part) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)
        } - {id(node) for node in ast.walk(module) if isinstance(node, ast.JoinedStr)}
        for node in ast.walk(module):
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in silent | inner:
                said = text(node)
                if said and "triune " in said:
                    yield f"{name(path)}:{node.lineno}", said
    for path in sorted((PACKAGE / "data").glob("*")):
        yield path.name, path.read_text()


def command_lines(said: str) -> list[tuple[bool, list[str]]]:
    """The `triune …` in a text, up to the end of the sentence, the bracket or the line; whether it can't be prose."""
    found = re.finditer(r"(: |[(`]|^[ $]*)?(?<![\w./-])triune ([a-z][^\n.;,()`]*)", said, re.MULTILINE)
    return [(match[1] is not None, match[2].split()) for match in found]


def problem(words: list[str], *, sure: bool = True) -> str | None:
    """Why these words are no command line of ours, or None. An unknown first word may be prose, unless `sure`."""
    command: click.Command = root
    context = click.Context(root, info_name="triune")
    for at, word in enumerate(words):
        if word in ("--", "|", ">", "&&", "#", "…"):
            return None
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(context, word.rstrip(":'\""))
            if found is None:
                return f"no command {word!r}" if at or sure else None
            command = found
        elif word.startswith("-") and word != "-":  # "-" is a stream
            known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
            if word.partition("=")[0] not in known | {"--help", "-h"}:
                return f"no option {word!r} of {command.name}"
    return None


def problems(said: str) -> list[str]:
    return [why for sure, words in command_lines(said) if (why := problem(words, sure=sure))]


@pytest.mark.parametrize(("where", "said"), list(literals()))
def test_commands_that_are_named_exist(where: str, said: str) -> None:
    del where
    assert problems(said) == []


@pytest.mark.parametrize("path", [path for path in documents() if path.name != "CLI.md"], ids=lambda path: path.name)
def test_commands_in_documents_exist(path: Path) -> None:
    assert problems(path.read_text()) == []


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert problems("Stop it (triune stop X), or: triune rm --force X") == []
    assert problems("Wait for it: triune ops wait X") == []
    assert problems("Look: triune ops look X") == ["no command 'look'"]
    assert problems("If it may go: triune rm --adopt X") == ["no option '--adopt' of rm"]
    assert problems("Copy it: triune copy X") == ["no command 'copy'"]
    assert problems("the daemon of triune is away") == []
