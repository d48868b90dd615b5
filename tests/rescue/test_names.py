"""Names out of an image, made safe: nothing leaves the folder, nothing overwrites another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.services.rescue.names import Names, safe_name

HOSTILE = st.text(st.sampled_from("a.%~/\0\n\x1b\u202eé\udcff"), max_size=6) | st.text(max_size=300)


@given(HOSTILE)
def test_any_name_is_one_safe_component(name: str) -> None:
    safe = safe_name(name)
    assert safe.isprintable()
    assert "/" not in safe
    assert safe not in ("", ".", "..")
    assert len(safe.encode()) <= 255


@pytest.mark.parametrize(
    ("name", "safe"),
    [("web.vmx", "web.vmx"), ("..", "%2E%2E"), ("a\nb", "a%0Ab"), ("\u202ex", "%E2%80%AEx"), (".sdd.sf", ".sdd.sf")],
)
def test_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@settings(max_examples=200)
@given(st.lists(st.lists(HOSTILE, min_size=1, max_size=5).map("/".join), max_size=12))
def test_no_two_are_the_same(paths: list[str]) -> None:
    names = Names(lambda path, _folder: path == "manifest.json")
    given_ = [names.file(path, str(number)) for number, path in enumerate(paths)]
    assert len(set(given_)) == len(given_)
    folders = {names.folder(path.rpartition("/")[0]) for path in paths}
    assert not folders & set(given_)
    assert "manifest.json" not in given_
    assert [names.file(path, str(number)) for number, path in enumerate(paths)] == given_
    for path in given_:
        assert not path.startswith("/")
        assert all(part not in ("", ".", "..") for part in path.split("/"))


def test_what_is_too_deep_is_written_at_the_top() -> None:
    names = Names(lambda _path, _folder: False)
    deep = names.file("/".join(["d"] * 5000), "1")
    long = names.file("/".join(["x" * 250] * 40), "2")
    assert deep.count("/") < 5
    assert max(map(len, (deep, long))) < 3900
    assert deep != names.file("/".join(["d"] * 5001), "3")


def test_long_names_keep_their_ending() -> None:
    one, other = safe_name("x" * 300 + "1.vmdk"), safe_name("x" * 300 + "2.vmdk")
    assert one.endswith(".vmdk")
    assert one != other
