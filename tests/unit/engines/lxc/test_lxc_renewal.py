"""The identity of a clone that is put off: given once, whole, whatever happened before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.engines.lxc.test_lxc_snapshots import POOL, make_tree
from tests.unit.engines.lxc.test_lxc_spec import CARD, MARK

from triune.domain.errors import Failed
from triune.engines.lxc import mark as marks
from triune.engines.lxc import renewal, restoring, seed
from triune.engines.lxc.mark import Mark
from triune.host import beneath


@pytest.fixture(autouse=True)
def anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beneath.Root, "_own", lambda *_: None)
    monkeypatch.setattr(beneath.os, "fchown", lambda *_: None)


def cloned(place: Path, mark: Mark = MARK) -> tuple[Path, Mark]:
    """A clone of `old` that is not itself yet."""
    folder = place / "new"
    card = replace(CARD, address="10.87.0.9", gateway="10.87.0.2")
    ours = replace(mark, machine_id="cd" * 16, cards=(card,), whole=True, state_dir=place / "state")
    (folder / "root").mkdir(parents=True)
    make_tree(folder / "root", "old")
    marks.write(folder, ours)
    renewal.put_off(folder, "old", mark)
    return folder, ours


def contents(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): path.read_text() if path.exists() else "" for path in paths}


def test_whoever_settles_makes_it_itself(tmp_path: Path) -> None:
    folder, mark = cloned(tmp_path)
    assert (folder / "root/etc/hostname").read_text() == "old\n"
    restoring.settle(folder, mark)
    root = folder / "root"
    assert (root / "etc/hostname").read_text() == "new\n"
    assert (root / "etc/hosts").read_text() == seed.hosts("new", mark.cards) + "10.0.0.1 mine\n"
    assert (root / "etc/resolv.conf").read_bytes() == seed.resolver(mark.cards)
    assert (root / "etc/machine-id").read_text() == mark.machine_id + "\n"
    assert not (root / "etc/ssh/ssh_host_rsa_key").exists()
    assert marks.read(folder) == replace(mark, seeded=True)
    assert not (folder / renewal.FILE).exists()


def test_once_itself_it_is_left_alone(tmp_path: Path) -> None:
    folder, mark = cloned(tmp_path)
    renewal.settle(folder, mark)
    (folder / "root/etc/ssh/ssh_host_rsa_key").write_text("its own")
    (folder / "root/etc/hostname").write_text("chosen\n")
    renewal.settle(folder, mark)
    assert (folder / "root/etc/ssh/ssh_host_rsa_key").read_text() == "its own"
    assert (folder / "root/etc/hostname").read_text() == "chosen\n"


class _Cut(BaseException):
    """Stands for a kill -9 at some call."""


def test_cut_off_anywhere_it_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mark = cloned(tmp_path / "whole")
    renewal.settle(folder, mark)
    wanted = contents(folder / "root")
    assert any("host-keys" in path for path in wanted)
    for step in range(100):
        folder, mark = cloned(tmp_path / str(step))
        calls = iter(range(1000))

        def cut(function, *, calls=calls, step=step):
            def call(*argv, **given):
                if next(calls) == step:
                    raise _Cut
                return function(*argv, **given)

            return call

        with monkeypatch.context() as patch:
            for owner, name in [(beneath.Root, one) for one in ("write_bytes", "unlink", "symlink", "mkdirs")] + [
                (Path, "rename"),
                (Path, "unlink"),
            ]:
                patch.setattr(owner, name, cut(getattr(owner, name)))
            try:
                renewal.settle(folder, mark)
                finished = True
            except _Cut:
                finished = False
        renewal.settle(folder, mark)
        assert contents(folder / "root") == wanted, step
        assert not (folder / renewal.FILE).exists()
        if finished:
            assert step > 10
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "name": "old", "mark": "{}"}'])
def test_without_a_word_of_its_origin_it_still_is_nobody_else(tmp_path: Path, text: str) -> None:
    folder, mark = cloned(tmp_path)
    (folder / renewal.FILE).write_text(text)
    renewal.settle(folder, mark)
    assert (folder / "root/etc/hostname").read_text() == "new\n"
    assert (folder / "root/etc/machine-id").read_text() == mark.machine_id + "\n"
    assert not (folder / "root/etc/ssh/ssh_host_rsa_key").exists()
    assert not (folder / renewal.FILE).exists()


def test_while_its_pool_is_away_it_waits(tmp_path: Path) -> None:
    folder, mark = cloned(tmp_path)
    with pytest.raises(Failed) as away:
        renewal.settle(folder, replace(mark, pool=replace(POOL, path=tmp_path / "gone")))
    assert away.value.code == "pool_away"
    assert (folder / renewal.FILE).exists()
    renewal.settle(folder, mark)
    assert (folder / "root/etc/hostname").read_text() == "new\n"


@pytest.mark.parametrize(
    ("free", "disk", "waits"), [(1 << 30, None, True), (1 << 20, None, False), (1 << 30, 1, False)]
)
def test_where_room_is_short_it_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, disk: int | None, waits: bool
) -> None:
    monkeypatch.setattr(renewal.btrfs, "is_subvolume", lambda _: True)
    monkeypatch.setattr(renewal.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert renewal.can_wait(tmp_path, replace(MARK, disk=disk)) is waits
    monkeypatch.setattr(renewal.btrfs, "is_subvolume", lambda _: False)
    assert not renewal.can_wait(tmp_path, replace(MARK, disk=disk))
