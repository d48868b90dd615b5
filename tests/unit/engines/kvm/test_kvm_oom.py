"""What guests' kernels say on their consoles when memory runs out."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from triune.engines.kvm.oom import Kills, _count

LINE = b"[  12.5] Out of memory: Killed process 77 (perl) total-vm:300kB\n"


def test_only_what_is_new_is_told(tmp_path: Path) -> None:
    old = tmp_path / "old/serial.log"
    old.parent.mkdir()
    old.write_bytes(LINE * 3)
    kills = Kills(tmp_path)
    assert list(kills.poll()) == []
    with old.open("ab") as file:
        file.write(LINE[:20])
        file.flush()
        assert list(kills.poll()) == []
        file.write(LINE[20:] + LINE)
    assert list(kills.poll()) == [("old", 2)]
    assert list(kills.poll()) == []
    new = tmp_path / "new/serial.log"
    new.parent.mkdir()
    new.write_bytes(b"boot\n" + LINE)
    old.write_bytes(LINE)  # rotated
    assert sorted(kills.poll()) == [("new", 1), ("old", 1)]
    old.unlink()
    assert list(kills.poll()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert list(Kills(tmp_path / "none").poll()) == []


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_read_to_the_last_whole_line(first: bytes, second: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serial.log"
        path.write_bytes(first + b"\n" + second)
        killed, at = _count(path, 0)
        assert killed == 0
        assert (first + b"\n" + second)[:at].endswith(b"\n")
        assert b"\n" not in (first + b"\n" + second)[at:]
