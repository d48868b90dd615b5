"""Workloads: keys, units, words, parts, and what is told of wrong ones."""

from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.domain.workload import KEYS, parse, schema


def test_units_and_defaults() -> None:
    found = parse({"memory": "512MiB", "start_within": "500ms", "cpus": 2, "devices": "/dev/kvm", "instances": 3})
    assert (found["memory"], found["start_within"], found["cpus"]) == (512 * 2**20, 0.5, 2.0)
    assert (found["devices"], found["instances"], found["os"]) == (("/dev/kvm",), 3, "linux")
    assert found.given == {"memory", "start_within", "cpus", "devices", "instances"}


def test_a_null_is_not_said() -> None:
    assert parse({"os": None}).given == frozenset()


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        ({"kernal_modules": []}, "unknown_key", "'kernel_modules'"),
        ({"live-migration": True}, "unknown_key", "'live_migration'"),
        ({"zzzzz": 1}, "unknown_key", "--schema"),
        ({"parts": [{"memry": 1}]}, "unknown_key", "'memory'"),
        ({"parts": [{"parts": [{}]}]}, "bad_workload", "beside"),
        ({"parts": "web"}, "bad_workload", "dash"),
        ({"parts": [{}] * 65}, "bad_workload", "64"),
        ({"trust": "hostil"}, "bad_workload", "'hostile'"),
        ({"ci": "yes"}, "bad_workload", "true or false"),
        ({"ci": 1}, "bad_workload", "true or false"),
        ({"instances": 0}, "bad_workload", "whole number"),
        ({"instances": 1.5}, "bad_workload", "whole number"),
        ({"instances": float("inf")}, "bad_workload", "whole number"),
        ({"instances": float("nan")}, "bad_workload", "whole number"),
        ({"name": "a\nb"}, "bad_workload", "one line"),
        ({"team": ["cooks"]}, "bad_workload", "containers"),
        ({"memory": "much"}, "bad_size", "512MiB"),
        ({"memory": -1}, "bad_workload", "size"),
        ([], "bad_workload", "--schema"),
    ],
)
def test_wrong_ones_are_told(data: object, code: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(data)
    assert caught.value.code == code
    assert told in caught.value.hint


def test_errors_stay_short_whatever_was_said() -> None:
    for data in (
        {"x" * 10**6: 1},
        {"trust": "x" * 10**6},
        {"ci": [["x"] * 1000] * 1000},
        {str(n): 1 for n in range(9999)},
    ):
        with pytest.raises(Invalid) as caught:
            parse(data)
        assert len(caught.value.message) + len(caught.value.hint) < 2000


def test_parts_inherit_what_they_do_not_say() -> None:
    found = parse({"trust": "tenants", "name": "all", "parts": [{"trust": "trusted"}, {"os": "windows"}]})
    assert [(part["name"], part["trust"], part["os"]) for part in found.parts] == [
        ("part-1", "trusted", "linux"),
        ("part-2", "tenants", "windows"),
    ]


def test_the_schema_is_one_and_takes_what_the_parser_takes() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    check = jsonschema.Draft202012Validator(schema())
    check.validate({"os": "windows", "memory": "4GiB", "parts": [{"ci": True, "instances": 2}]})
    assert not check.is_valid({"kernal_modules": []})
    assert not check.is_valid({"trust": "hostil"})
    assert set(schema()["properties"]) == {*KEYS, "parts"}


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(sorted(KEYS)) | st.text(max_size=8),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.lists(st.text(max_size=5)),
        max_size=4,
    )
)
def test_anything_is_read_or_refused(data: dict[str, object]) -> None:
    try:
        found = parse(data)
    except Invalid as error:
        assert error.hint
    else:
        jsonschema.validate(found.demands(), schema())
