"""`triune advise` as a command: formats, options over files, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from triune.cli import launching
from triune.cli.root import main
from triune.domain.errors import Invalid, Unsupported

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.fixture(autouse=True)
def _no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIUNE_HOST", f"unix://{tmp_path}/none.sock")


def test_a_file_and_options_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("packaging: packages\nadministration: inside\n")
    assert main(["advise", "--workload", str(file), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["choice"] == "lxc"
    assert main(["advise", "--workload", str(file), "--os", "windows", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["choice"], found["workload"]["administration"]) == ("kvm", "inside")


def test_the_table_has_reasons_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--name", "web", "--packaging", "oci-image", "--ci", "--instances", "20", "--explain"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("web: docker\n")
    for part in ("ENGINE", "What would change it", "triune launch docker:debian:12 web", "[rule oci-image:", "FIRED"):
        assert part in said


def test_any_key_by_set(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["advise", "--set", "kernel_modules=a,b", "--set", "services=4", "--set", "kernel_isolation=true"]
    assert main([*argv, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["workload"]
    assert found == {"kernel_isolation": True, "kernel_modules": ["a", "b"], "services": 4}


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--schema"]) == 0
    assert "kernel_modules" in json.loads(capsys.readouterr().out)["properties"]


def test_nothing_serves_and_says_so_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unsupported):
        main(["advise", "--os", "macos", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["choice"] is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "line 1"),
        ("kernal: 1", "kernal"),
        ("- a", "mapping"),
        ("a: &a [*a]", "100,000"),
        (BOMB, "100,000"),
        ("", ""),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    if not text:
        assert main(["advise", "--workload", str(file)]) == 0
        return
    with pytest.raises(Invalid, match=told):
        main(["advise", "--workload", str(file)])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="can't read"):
        main(["advise", "--workload", str(tmp_path / "none")])
    (tmp_path / "big").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(Invalid, match="larger"):
        main(["advise", "--workload", str(tmp_path / "big")])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="no YAML"):
        main(["advise", "--workload", str(tmp_path / "bytes")])


def test_looking_at_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: nginx}, ad: {platform: windows/amd64}}")
    assert main(["advise", "--from-compose", str(tmp_path / "compose.yaml"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["choice"] == "hybrid"
    (tmp_path / "Dockerfile").write_text("FROM nginx\nEXPOSE 80")
    assert main(["advise", "--from-dockerfile", str(tmp_path / "Dockerfile"), "--trust", "hostile"]) == 0
    assert "note: it listens on 80" in capsys.readouterr().out
    assert main(["advise", "--from-host", "--from-vmx", "x"]) == 2


def test_questions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter(["Windows", "frob", "installer", *[""] * 20])
    monkeypatch.setattr("click.prompt", lambda *_, **__: next(answers))
    assert main(["advise", "--ask", "--format", "json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["workload"] == {"os": "windows", "packaging": "installer"}
    assert "'frob' is none of these" in said.err


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(launching, "launch", lambda image, name, **given: seen.append(given["engine"]))
    return seen


@pytest.mark.parametrize(
    ("text", "image", "engine"),
    [
        ("administration: inside", "debian/12", "lxc"),
        ("trust: hostile", "debian/12", "kvm"),
        ("ci: true", "docker:nginx", "docker"),
    ],
)
def test_a_launch_takes_what_fits(
    launched: list[str], tmp_path: Path, text: str, image: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.yaml").write_text(text)
    assert main(["launch", image, "x", "--workload", str(tmp_path / "w.yaml"), "--memory", "1GiB"]) == 0
    assert launched == [engine]
    said = capsys.readouterr()
    assert said.err.startswith(f"{engine} was chosen: ")
    assert said.out == ""


def test_an_installer_is_a_machine(launched: list[str], tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("state: system")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triune.cli.installer.installer_image", lambda client, iso: iso)
        assert main(["launch", "--iso", "a.iso", "x", "--workload", str(tmp_path / "w.yaml"), "-q"]) == 0
    assert launched == ["kvm"]


def test_launches_that_cannot_choose(launched: list[str], tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text("parts: [{os: windows}, {}]")
    with pytest.raises(Invalid, match="2 parts"):
        main(["launch", "debian/12", "x", "--workload", str(file)])
    file.write_text("os: macos")
    with pytest.raises(Unsupported):
        main(["launch", "debian/12", "x", "--workload", str(file)])
    assert main(["launch", "debian/12", "x", "--workload", str(file), "--engine", "lxc"]) == 2
    assert launched == []
