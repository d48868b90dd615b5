"""What `launch` makes of its options before it asks the daemon."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from triune.cli import launch, launching
from triune.cli.launching import _volume


def test_relative_folders_are_this_machines_and_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home-of-mine")
    assert _volume("./www:/srv:ro") == f"{tmp_path}/www:/srv:ro"
    assert _volume("~/www:/srv") == "/home-of-mine/www:/srv"
    assert _volume("data:/srv") == "data:/srv"
    assert _volume("/etc/app:/etc/app") == "/etc/app:/etc/app"


_PLAIN = "debian/12 web -- -q --quiet --no-start -d --engine lxc --engine=kvm --wait running --wait=never --cpus 1.5 -p"
_ODD = "--memory=1GiB -e A=B -eA=B --env=A --set a=b 8080:80 --timeout 5m --timeout=x --iso --frob -h -qd -v ./x:/y -"
_WORDS = st.sampled_from([*_PLAIN.split(), *_ODD.split(), "--network", "none", ""])


@given(st.lists(_WORDS, max_size=8))
def test_the_quick_way_understands_what_click_does_or_leaves_it(words: list[str]) -> None:
    ours = launching.parse(words)
    if ours is None:
        return
    seen: dict[str, object] = {}
    command = click.Command("launch", params=launch.launch.params, callback=lambda **given: seen.update(given))
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    seen.pop("iso")
    seen.pop("workload")
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in seen.items()} == ours


def test_common_launches_go_the_quick_way() -> None:
    words = "debian/12 web --engine docker --wait running -p 8080:80 -e A=B -q -- sh -c x"
    found = launching.parse(words.split())
    assert found is not None
    assert (found["image"], found["name"], found["command"]) == ("debian/12", "web", ["sh", "-c", "x"])
    assert (found["engine"], found["publish"], found["env"], found["quiet"]) == ("docker", ["8080:80"], ["A=B"], True)
