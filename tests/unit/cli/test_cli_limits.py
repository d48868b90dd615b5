"""What `set` says of what it did."""

from __future__ import annotations

from triune.cli.limits import _lines


def test_what_waits_for_a_start_is_told_as_it_will_be() -> None:
    result = {
        "limits": {"cpus": 2, "memory": 384 << 20, "pids": None},  # of a running machine: what it has now
        "now": ["cpus", "pids"],
        "later": ["memory"],
    }
    assert list(_lines("vm", {"cpus": 2, "pids": None, "memory": 512 << 20}, result)) == [
        "vm has cpus 2, pids without limit now",
        "vm has memory 512 MiB from its next start",
    ]
    assert list(_lines("vm", {"memory": None}, result | {"now": []})) == [
        "vm has memory without limit from its next start"
    ]
