"""What is said of a result in words."""

from __future__ import annotations

from triune.services.benchmarks.telling import figure, remarks, spread


def test_one_sample_has_no_spread() -> None:
    assert spread(1, 0.0) == ""
    assert spread(2, 0.0) == " ±0%"
    assert spread(5, 0.3) == " ±15%"
    assert [figure(value) for value in (0.00012, 3.14159, 1234.5)] == ["1.2e-04", "3.14", "1,234"]


def problem(number: int, *, by_kind: bool | None = None, subject: str = "alpha") -> dict[str, object]:
    row: dict[str, object] = {"benchmark": f"b{number:02}", "subject": subject, "round": 1, "message": f"m{number}"}
    return row if by_kind is None else {**row, "by_kind": by_kind}


def test_what_a_kind_cannot_have_is_no_problem() -> None:
    problems = [problem(1, by_kind=True), problem(2, by_kind=True), problem(3), problem(3), problem(4, by_kind=False)]
    data = {
        "warnings": ["the host is busy"],
        "absent": [{"name": "beta", "reason": "there is no beta"}],
        "problems": [*problems, problem(1, by_kind=True, subject="beta")],
    }
    assert remarks(data, "there") == [
        "the host is busy",
        "beta was left out: there is no beta",
        "b03 in alpha: m3",
        "b04 in alpha: m4",
        "alpha, by its kind, has none of: b01, b02",
        "beta, by its kind, has none of: b01",
    ]
    many = remarks({"warnings": [], "absent": [], "problems": [problem(number) for number in range(11)]}, "there")
    assert len(many) == 9 and many[-1] == "and 3 problems more: there"
