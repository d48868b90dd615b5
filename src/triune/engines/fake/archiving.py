"""Backups of the fake engine: its instances' data are one small tree, made of log and settings."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from triune.domain.errors import NotFound
from triune.domain.instance import State
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency
from triune.engines.archiving import Archive, Part, PartKind, RestorePlan
from triune.engines.fake.state import FakeInstance

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine

_PREFIX = "triune-fake-"


class FakeArchiving:
    """Writes a tree when opened, and removes it when closed."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def describe(self, name: str) -> Mapping[str, object]:
        """Settings and command."""
        with self._engine.reading():
            one = self._engine.find(name)
            spec = {"settings": dict(one.settings), "command": [*one.command], "network": one.network}
            return {"settings": dict(one.settings), "command": [*one.command], "spec": spec}

    def open(self, name: str, base: str | None, progress: Progress) -> Archive:
        """A tree with a file of its log."""
        del base
        self._engine.pass_step("archive", progress, name)
        with self._engine.reading():
            one = self._engine.find(name)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            (folder / "log").write_text("\n".join(one.log))
            (folder / "settings").write_text(json.dumps(one.settings))
            running = one.state == State.RUNNING.value
        return _FakeArchive(self._engine, name, folder, running=running)

    def abandon(self, name: str, *, running: bool) -> None:
        """Let it go on, if it ran."""
        with self._engine.changing(), suppress(NotFound):
            one = self._engine.find(name)
            if running and one.state == State.PAUSED.value:
                one.state = State.RUNNING.value

    def place(self, plan: RestorePlan) -> Path:
        """Where temporary files go."""
        del plan
        return Path(tempfile.gettempdir())

    def restore(self, plan: RestorePlan, progress: Progress) -> None:
        """Log and settings of the tree."""
        instance_name(plan.spec.name)
        root = plan.parts["root"]
        made = FakeInstance.planned(
            plan,
            settings=json.loads((root / "settings").read_text()),
            log=(root / "log").read_text().split("\n"),
        )
        self._engine.add(made, "restored", progress)

    def discard(self, name: str) -> None:
        """The same as delete: nothing else was made."""
        self._engine.delete(name)


class _FakeArchive:
    still = False
    parts: Sequence[Part]

    def __init__(self, engine: FakeEngine, name: str, folder: Path, *, running: bool) -> None:
        self._engine = engine
        self._name = name
        self._folder = folder
        self._running = running
        self._held = False
        self.parts = (Part(kind=PartKind.TREE, name="root", path=folder),)
        self.consistency = (Consistency.FROZEN if running else Consistency.STOPPED).value
        self.kept = ""

    def hold(self) -> None:
        if self._running:
            with self._engine.changing():
                self._engine.find(self._name).state = State.PAUSED.value
                self._held = True

    def release(self) -> None:
        if self._held:
            with self._engine.changing():
                self._engine.find(self._name).state = State.RUNNING.value
                self._held = False

    def keep(self, backup: str) -> None:
        self.kept = backup

    def close(self) -> None:
        self.release()
        shutil.rmtree(self._folder, ignore_errors=True)
