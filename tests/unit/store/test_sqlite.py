"""The store: transactions, order, compare-and-set, and what happens when its file is unusable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.domain.errors import Conflict, Failed
from triune.store import Delete, Put, SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state" / "triune.db")
    yield store
    store.close()


def test_values_come_back_with_growing_revisions(store: SqliteStore) -> None:
    first = store.commit([Put("a/1", {"x": [1, "ü"]})])
    second = store.commit([Put("a/2", {}), Put("a/1", {"x": None})])
    assert second > first
    entry = store.get("a/1")
    assert entry is not None
    assert (entry.value, entry.revision) == ({"x": None}, second)
    assert store.get("nothing") is None


def test_a_transaction_is_all_or_nothing(store: SqliteStore) -> None:
    store.commit([Put("here", {})])
    with pytest.raises(Conflict) as caught:
        store.commit([Put("b", {}), Delete("here")], expect={"here": 0})
    assert caught.value.code == "store_conflict"
    assert store.get("b") is None
    assert store.get("here") is not None


def test_expecting_absence_lets_only_one_of_many_win(store: SqliteStore) -> None:
    wins: list[int] = []

    def claim(number: int) -> None:
        try:
            store.commit([Put("addresses/1", {"by": number})], expect={"addresses/1": 0})
            wins.append(number)
        except Conflict:
            pass

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = store.get("addresses/1")
    assert entry is not None
    assert wins == [entry.value["by"]]


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.text(alphabet="ab/%_\U0001f600", min_size=1, max_size=5), unique=True, max_size=12),
    prefix=st.text(alphabet="ab/%_", max_size=2),
    limit=st.integers(1, 5),
)
def test_scan_pages_like_a_sorted_list(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], prefix: str, limit: int
) -> None:
    store = SqliteStore(tmp_path_factory.mktemp("scan") / "db")
    try:
        store.commit([Put(key, {}) for key in keys])
        wanted = sorted((key for key in keys if key.startswith(prefix)), key=lambda key: key.encode())
        for reverse in (False, True):
            seen: list[str] = []
            while page := store.scan(prefix, after=seen[-1] if seen else None, limit=limit, reverse=reverse):
                seen += [entry.key for entry in page]
            assert seen == (wanted[::-1] if reverse else wanted)
    finally:
        store.close()


def test_a_killed_writer_leaves_what_it_committed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from triune.store import Put, SqliteStore\n"
        "store = SqliteStore(pathlib.Path(sys.argv[1]))\n"
        "for n in range(10**9):\n"
        "    store.commit([Put(f'pair/a', {'n': n}), Put(f'pair/b', {'n': n})])\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "db"
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(20):
        told = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    store = SqliteStore(path)
    pair = [entry.value["n"] for entry in store.scan("pair/")]
    store.close()
    assert pair[0] == pair[1] >= told


def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(Failed) as caught:
        SqliteStore(path)
    assert caught.value.code == "store_failed"
    assert str(path) in caught.value.message


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Failed) as caught:
        SqliteStore(path)
    assert caught.value.code == "store_newer"


def test_threads_that_ended_leave_no_connection_open(store: SqliteStore) -> None:
    store.commit([Put("a", {})])

    def opened() -> int:
        folder = Path("/proc/self/fd")
        return sum("triune.db" in str(link.readlink()) for link in folder.iterdir() if link.is_symlink())

    def read() -> None:
        thread = threading.Thread(target=store.get, args=("a",))
        thread.start()
        thread.join()

    read()
    before = opened()
    for _ in range(20):
        read()
    assert opened() == before


class SmallDisk(SqliteStore):
    """A store on a disk that is full until the reserve is given up."""

    def _give_up_reserve(self) -> bool:
        made_room = super()._give_up_reserve()
        if made_room:
            self._writer.execute("PRAGMA max_page_count = 4294967294")
        return made_room


def test_on_a_full_disk_the_reserve_is_given_up_and_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SmallDisk(tmp_path / "db")
    reserve = tmp_path / "db-reserve"
    store.commit([Put("a", {})])
    assert reserve.stat().st_blocks * 512 >= 1 << 20
    store._writer.execute("PRAGMA max_page_count = 1")
    large = Put("b", {"text": "x" * 100_000})
    store.commit([large])
    assert store.get("b") is not None
    assert not reserve.exists()
    store._writer.execute("PRAGMA max_page_count = 1")
    with pytest.raises(Failed) as caught:
        store.commit([Put("c", {"text": "x" * 100_000})])
    assert caught.value.code == "store_failed"
    monkeypatch.setattr("triune.store.sqlite._REFILL_EVERY", 0.0)
    store.commit([Put("a", {"n": 1})])
    assert reserve.exists()
    store.close()
