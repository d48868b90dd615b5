"""The promises of `Archiving`, asked of every engine that has it. What was restored is compared, not booted."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.contract.adapters import PREFIX, Adapter
from tests.contract.conftest import Ended, finish
from triune.domain.errors import Conflict, NotFound, TriuneError
from triune.domain.instance import State
from triune.domain.operation import Silent
from triune.domain.snapshot import Consistency
from triune.engines.archiving import Archive, Archiving, Part, PartKind, RestorePlan
from triune.engines.base import Command, Engine
from triune.host.nbd import data_ranges, open_disk

SILENT = Silent()
MIB = 1 << 20
NAMED = {"etc/hostname", "etc/hosts"}  # the new name stands in them


@pytest.fixture(scope="module")
def facet(engine: Engine) -> Archiving:
    if engine.archiving is None:
        pytest.skip(f"{engine.name} has no archiving: {engine.probe().missing.get('archiving')}")
    return engine.archiving


@pytest.fixture
def copy(engine: Engine, facet: Archiving) -> Iterator[str]:
    """A name for what is restored."""
    text = f"{PREFIX}copy-{uuid.uuid4().hex[:6]}"
    yield text
    facet.discard(text)
    assert text not in {row.name for row in engine.list()}


def state(engine: Engine, name: str) -> State:
    return next(row.state for row in engine.list() if row.name == name)


def run(engine: Engine, name: str, script: str) -> Ended:
    assert engine.commands is not None
    return finish(engine.commands.open(name, Command(argv=("sh", "-c", script))))


def is_real(engine: Engine) -> bool:
    return not engine.probe().facts.get("simulated")


def print_of(part: Part, *, times: bool) -> object:
    """What a part holds, as far as a restore must bring it back."""
    if part.kind is PartKind.IMAGE:
        return part.digest
    if part.kind is PartKind.TREE:
        assert part.path is not None
        return dict(files(part.path, times=times))
    with closing(open_disk(part.path, part.socket, part.export)) as reader:
        found = hashlib.sha256()
        for offset, length in data_ranges(part.path, part.socket, part.export):
            for at in range(offset, offset + length, MIB):
                if (data := reader.read(at, min(MIB, offset + length - at))).count(0) != len(data):
                    found.update(at.to_bytes(8) + data)
        return reader.size, found.hexdigest()


def files(root: Path, *, times: bool) -> Iterator[tuple[str, object]]:
    """The plain files and links below a folder, on its own file system."""
    device = root.lstat().st_dev
    for folder, folders, names in os.walk(root):
        folders[:] = [one for one in folders if (Path(folder) / one).lstat().st_dev == device]
        for name in names:
            path = Path(folder) / name
            info = path.lstat()
            facts = (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns if times else 0)
            if stat.S_ISLNK(info.st_mode):
                yield str(path.relative_to(root)), (*facts[:3], path.readlink())
            elif stat.S_ISREG(info.st_mode) and info.st_dev == device:
                yield str(path.relative_to(root)), (*facts, hashlib.sha256(path.read_bytes()).hexdigest())


def differing(before: list[object], after: list[object]) -> list[object]:
    """What is not as it was: files of trees by name, other parts by what was read of them."""
    assert len(before) == len(after)
    found: list[object] = []
    for one, other in zip(before, after, strict=True):
        if isinstance(one, dict) and isinstance(other, dict):
            found += sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        elif one != other:
            found.append((one, other))
    return found


def store(archive: Archive, folder: Path) -> dict[str, Path]:
    """The parts as a repository would give them back."""
    folder.mkdir()
    stored = {}
    for part in archive.parts:
        target = stored[part.name] = folder / part.name
        if part.kind is PartKind.TREE:
            subprocess.run(["cp", "-ax", "--sparse=always", str(part.path), str(target)], check=True)
        elif part.kind is PartKind.DISK:
            with closing(open_disk(part.path, part.socket, part.export)) as reader, target.open("wb") as file:
                file.truncate(reader.size)
                for offset, length in data_ranges(part.path, part.socket, part.export):
                    for at in range(offset, offset + length, MIB):
                        file.seek(at)
                        file.write(reader.read(at, min(MIB, offset + length - at)))
        else:
            del stored[part.name]  # the engine has it
    return stored


def plan_for(adapter: Adapter, engine: Engine, name: str, described: object) -> RestorePlan:
    assert isinstance(described, dict)
    return RestorePlan(
        spec=adapter.plan(engine, name).spec,
        image="tdoc/1",
        created=datetime.now(UTC).replace(microsecond=0),
        described=described,
        machine_id=str(described.get("machine_id") or ""),
    )


def restored(adapter: Adapter, engine: Engine, facet: Archiving, name: str, new: str) -> list[object]:
    """Back an instance up and restore it under another name; what was read of it."""
    described = json.loads(json.dumps(facet.describe(name)))
    plan = plan_for(adapter, engine, new, described)
    folder = facet.place(plan) / f".{PREFIX}{uuid.uuid4().hex[:8]}"
    archive = facet.open(name, None, SILENT)
    try:
        archive.hold()
        found = [print_of(part, times=is_real(engine)) for part in archive.parts]
        parts = store(archive, folder)
        archive.release()
        archive.keep("1234abcd")
        archive.close()
        facet.restore(replace(plan, parts=parts), SILENT)
    finally:
        archive.close()
        shutil.rmtree(folder, ignore_errors=True)
    return found


class TestArchiving:
    def test_what_is_described_is_json(self, engine: Engine, facet: Archiving, created: str) -> None:
        described = facet.describe(created)
        assert json.loads(json.dumps(described)).keys() == described.keys()
        with pytest.raises(NotFound) as nobody:
            facet.describe(f"{PREFIX}nobody")
        assert nobody.value.code == "instance_not_found"
        with pytest.raises(NotFound):
            facet.open(f"{PREFIX}nobody", None, SILENT)

    def test_parts_are_named_the_same_each_time(self, engine: Engine, facet: Archiving, created: str) -> None:
        seen = []
        for _ in range(2):
            archive = facet.open(created, None, SILENT)
            seen.append([(part.kind, part.name) for part in archive.parts])
            for part in archive.parts:
                assert re.fullmatch(r"[a-z0-9.-]+", part.name)
                assert part.kind is not PartKind.TREE or (part.path is not None and part.path.is_dir())
                assert part.kind is not PartKind.DISK or part.socket or part.path
            archive.close()
            archive.close()
        assert seen[0] == seen[1]
        assert len(set(seen[0])) == len(seen[0]) > 0

    def test_of_a_stopped_one(self, engine: Engine, facet: Archiving, created: str) -> None:
        with closing(facet.open(created, None, SILENT)) as archive:
            archive.hold()
            assert archive.consistency == Consistency.STOPPED.value
            archive.release()
            archive.release()
        assert state(engine, created) is State.STOPPED

    def test_one_that_is_started_meanwhile_gives_no_backup(
        self, engine: Engine, facet: Archiving, created: str
    ) -> None:
        if not is_real(engine):
            pytest.skip("by design: nothing of it changes")
        with closing(facet.open(created, None, SILENT)) as archive:
            assert archive.still
            try:
                engine.start(created, SILENT)
            except TriuneError:
                archive.release()  # what is read is locked, as QEMU's disks are
                return
            try:
                with pytest.raises(Conflict) as caught:
                    archive.release()
                assert caught.value.code == "instance_started"
            finally:
                engine.stop(created, timeout=0, force=True, progress=SILENT)

    def test_a_running_one_goes_on(self, engine: Engine, facet: Archiving, running: str) -> None:
        with closing(facet.open(running, None, SILENT)) as archive:
            archive.hold()
            told = {word.value for word in (Consistency.AGENT, Consistency.FROZEN, Consistency.CRASH)}
            assert archive.consistency in told
            if not archive.still and engine.pausing is not None:
                assert state(engine, running) is State.PAUSED
            archive.release()
            assert state(engine, running) is State.RUNNING
        assert state(engine, running) is State.RUNNING

    def test_what_its_user_froze_stays_frozen(self, engine: Engine, facet: Archiving, running: str) -> None:
        if engine.pausing is None:
            pytest.skip(f"{engine.name} has no pausing: {engine.probe().missing.get('pausing')}")
        engine.pausing.pause(running)
        try:
            with closing(facet.open(running, None, SILENT)) as archive:
                archive.hold()
                archive.release()
                assert state(engine, running) is State.PAUSED
            assert state(engine, running) is State.PAUSED
        finally:
            engine.pausing.resume(running)

    def test_what_a_crash_left_is_let_go(self, engine: Engine, facet: Archiving, running: str) -> None:
        archive = facet.open(running, None, SILENT)
        archive.hold()
        for _ in range(2):
            facet.abandon(running, running=True)
            assert state(engine, running) is State.RUNNING
        archive.close()
        facet.abandon(f"{PREFIX}nobody", running=True)
        with closing(facet.open(running, None, SILENT)) as again:
            assert again.parts
        assert state(engine, running) is State.RUNNING

    def test_what_is_written_is_read(self, engine: Engine, facet: Archiving, running: str) -> None:
        if not is_real(engine):
            pytest.skip("by design: its commands do not see its files")
        word = uuid.uuid4().hex
        assert run(engine, running, f"echo {word} > /root-what; sync").code == 0
        with closing(facet.open(running, None, SILENT)) as archive:
            archive.hold()
            trees = [part.path for part in archive.parts if part.kind is PartKind.TREE and part.path]
            if trees:
                assert [tree for tree in trees if (tree / "root-what").exists()]
                assert any((tree / "root-what").read_text() == f"{word}\n" for tree in trees if tree.exists())
            else:
                assert any(holds(part, word.encode()) for part in archive.parts if part.kind is PartKind.DISK)
            archive.release()
        run(engine, running, "rm /root-what")

    def test_a_restored_one_is_as_it_was(
        self, adapter: Adapter, engine: Engine, facet: Archiving, created: str, copy: str
    ) -> None:
        before = restored(adapter, engine, facet, created, copy)
        assert state(engine, copy) is State.STOPPED
        with closing(facet.open(copy, None, SILENT)) as archive:
            archive.hold()
            after = [print_of(part, times=is_real(engine)) for part in archive.parts]
        assert set(differing(before, after)) <= NAMED
        facet.discard(copy)
        facet.discard(copy)
        assert copy not in {row.name for row in engine.list()}
        assert state(engine, created) is State.STOPPED

    def test_nothing_that_exists_is_changed(
        self, adapter: Adapter, engine: Engine, facet: Archiving, created: str, running: str
    ) -> None:
        plan = plan_for(adapter, engine, running, facet.describe(created))
        folder = facet.place(plan) / f".{PREFIX}{uuid.uuid4().hex[:8]}"
        (folder / "root").mkdir(parents=True)
        (folder / "root/settings").write_text("{}")
        (folder / "root/log").touch()
        try:
            with pytest.raises(Conflict) as exists:
                facet.restore(replace(plan, parts={"root": folder / "root"}), SILENT)
        finally:
            shutil.rmtree(folder)
        assert exists.value.code == "instance_exists"
        assert state(engine, running) is State.RUNNING


def holds(part: Part, word: bytes) -> bool:
    """Whether a disk has these bytes, which lie within one MiB of it."""
    with closing(open_disk(part.path, part.socket, part.export)) as reader:
        for offset, length in data_ranges(part.path, part.socket, part.export):
            for at in range(offset, offset + length, MIB):
                if word in reader.read(at, min(MIB, offset + length - at)):
                    return True
    return False
