"""A zfs pool, with the tool's part played by a fake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from triune.domain.errors import Conflict, Invalid, Unsupported
from triune.domain.pool import PoolDriver
from triune.host import zfs
from triune.host.run import Result
from triune.services.storage.backends import BACKENDS
from triune.services.storage.records import PoolRecord


class Tool:
    """`zfs` with datasets in memory."""

    def __init__(self) -> None:
        self.datasets: dict[str, dict[str, str]] = {}
        self.asked: list[list[str]] = []

    def __call__(self, argv: Sequence[str | Path], **options: object) -> Result:
        words = [str(word) for word in argv]
        self.asked.append(words)
        assert words[0] == "zfs"
        name = words[-1]
        if words[1] == "list":
            return Result(0 if name in self.datasets else 1, b"", b"")
        if words[1] == "create":
            parent = name.rpartition("/")[0]
            assert parent in self.datasets or parent == "tank"
            self.datasets[name] = {}
        elif words[1] == "set":
            key, _, value = words[2].partition("=")
            self.datasets[name][key] = value
        elif words[1] == "get":
            return Result(0, b"4096\n", b"")
        elif words[1] == "destroy":
            self.datasets = {key: value for key, value in self.datasets.items() if not f"{key}/".startswith(f"{name}/")}
        return Result(0, b"", b"")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tool:
    made = Tool()
    monkeypatch.setattr(zfs, "run", made)
    monkeypatch.setattr(zfs, "_MODULE", tmp_path)
    return made


def record(path: Path, dataset: str = "tank/triune") -> PoolRecord:
    return PoolRecord(
        name="z", id="0", driver=PoolDriver.ZFS, path=path, created=datetime.now(UTC), dataset=dataset
    )  # fmt: skip


def test_a_pool_and_its_trees(tool: Tool, tmp_path: Path) -> None:
    pool, backend = record(tmp_path), BACKENDS[PoolDriver.ZFS]
    backend.check(pool, None)
    backend.make(pool, None)
    assert tool.asked[-2] == [
        *("zfs", "create", "-o", "acltype=posixacl", "-o", "xattr=sa", "-o", f"mountpoint={tmp_path}"),
        "tank/triune",
    ]
    tree = tmp_path / "trees" / "data"
    backend.make_tree(pool, tree)
    backend.limit(pool, tree, 1 << 30)
    assert tool.datasets["tank/triune/trees/data"] == {"refquota": str(1 << 30)}
    backend.limit(pool, tree, None)
    assert tool.datasets["tank/triune/trees/data"] == {"refquota": "none"}
    assert backend.used(pool, tree) == 4096
    assert backend.quota(pool) == ""
    for _ in range(2):
        backend.drop_tree(pool, tree)
        assert set(tool.datasets) == {"tank/triune", "tank/triune/trees"}
    for _ in range(2):
        backend.erase(pool)
        assert tool.datasets == {}


@pytest.mark.parametrize("dataset", ["", "-r tank", "tank//x", "tank/x@snap", "tank/x\n", "/tank"])
def test_names_that_are_none(tool: Tool, tmp_path: Path, dataset: str) -> None:
    with pytest.raises(Invalid):
        BACKENDS[PoolDriver.ZFS].check(record(tmp_path, dataset), None)


def test_what_is_there_is_not_taken(tool: Tool, tmp_path: Path) -> None:
    tool.datasets["tank/triune"] = {}
    with pytest.raises(Conflict):
        BACKENDS[PoolDriver.ZFS].check(record(tmp_path), None)


def test_a_host_without_zfs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zfs, "_MODULE", tmp_path / "none")
    with pytest.raises(Unsupported) as caught:
        BACKENDS[PoolDriver.ZFS].check(record(tmp_path), None)
    assert caught.value.code == "no_zfs"
