"""A daemon in this process: fake engines, networks on paper, the real server on a unix socket."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.api.fakes import FakeNetworks, FakeShaper
from tests.patience import PATIENCE, until
from triune.api.server import make_server, open_socket
from triune.app import Settings, Triune
from triune.engines.fake.engine import FakeEngine
from triune.engines.registry import EngineSettings
from triune.sdk import Client
from triune.services.images.manifest import DiskFiles, Manifest, TreeFiles
from triune.services.images.store import ImageStore
from triune.services.instances import TemplateSettings

ENGINES = ("lxc", "kvm", "docker")
TRIUNE = Path(sys.executable).with_name("triune")


def add_image(data: Path, name: str = "debian/12") -> None:
    """An image with a disk and a tree, as far as the fake engines look at them."""
    store = ImageStore(data / "images")
    store.prepare()
    digest = name.encode().hex().ljust(64, "0")[:64]
    folder = store.folder(digest)
    (folder / "private" / "tree").mkdir(parents=True)
    (folder / "disk.qcow2").touch()
    manifest = Manifest(
        name=name,
        digest=digest,
        created=datetime.now(UTC),
        source="made by a test",
        tree=TreeFiles(path="private/tree", init="/sbin/init", size=220 << 20),
        disk=DiskFiles(path="disk.qcow2", format="qcow2", virtual_size=10 << 30, size=300 << 20, agent=True),
    )
    (folder / "manifest.json").write_bytes(manifest.to_json())
    store.set_name(name, digest)


class Held:
    """A call that has to wait: `begun` says that it came, `let_go` lets it do its work."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._go = threading.Event()

    def let_go(self) -> None:
        """It goes on."""
        self._go.set()

    def wait(self, *given: object) -> None:
        """What the call does first. An operation may be cancelled meanwhile, if one is among the arguments."""
        self.begun.set()
        check = next((one.check for one in given if hasattr(one, "check")), lambda: None)
        until(lambda: self._go.wait(0.01) or check(), "nobody let it go")


class House:
    """`client` speaks to it; `triune` is what it serves; `run` starts the command line against it."""

    def __init__(self, folder: Path, *, automatic_templates: bool = False) -> None:
        self.socket = folder / "triune.sock"
        data = folder / "data"
        add_image(data)
        self.settings = Settings(
            data=data,
            socket=self.socket,
            group="no-such-group",
            engines=EngineSettings(state_dir=data / "instances", enabled=ENGINES, fake=ENGINES),
            templates=TemplateSettings(automatic=automatic_templates),
        )
        self.shaper = FakeShaper()
        self.triune = Triune(self.settings, make_networks=FakeNetworks, make_shaper=lambda: self.shaper)  # type: ignore[arg-type]
        self.triune.start()
        self.server = make_server(self.triune)
        listener = open_socket(self.socket, self.settings.group)
        self._thread = threading.Thread(target=self.server.run, args=([listener],), name="server")
        self._thread.start()
        self.client = Client(str(self.socket))
        until(lambda: self.server.started)

    @property
    def env(self) -> dict[str, str]:
        """Of commands that are to speak to it."""
        return {**os.environ, "TRIUNE_HOST": str(self.socket), "NO_COLOR": "1"}

    def engine(self, name: str) -> FakeEngine:
        """One of its engines."""
        engine = self.triune.engines[name]
        assert isinstance(engine, FakeEngine)
        return engine

    def launch(self, name: str, engine: str = "lxc", image: str = "", **request: Any) -> None:
        """Launch through the API and wait."""
        image = image or ("docker:nginx" if engine == "docker" else "debian/12")
        operation = self.client.instances.launch(name=name, image=image, engine=engine, **request)
        self.client.operations.result(operation["id"], timeout=PATIENCE)

    @property
    def streams(self) -> set[Any]:
        """Sessions, logs and events that clients have open."""
        return self.server.config.app.state.opened._stops  # type: ignore[union-attr]

    @contextmanager
    def held(self, thing: object, name: str) -> Iterator[Held]:
        """What is called on an engine, or on a facet of it, waits until it is let go or nobody looks any more."""
        original, held = getattr(thing, name), Held()

        def call(*args: Any, **named: Any) -> Any:
            held.wait(*args, *named.values())
            return original(*args, **named)

        setattr(thing, name, call)
        try:
            yield held
        finally:
            held.let_go()
            delattr(thing, name)

    def settle(self) -> None:
        """Wait until everything that was begun has ended, and has let go of what it held."""
        for operation in list(self.triune.operations._live):
            self.triune.operations.wait(operation, PATIENCE)
        for thread in threading.enumerate():  # what follows an engine's event, aside of it
            if thread.name.endswith(("-up", "-limits", "-traffic", "-gone", "-renamed")):
                thread.join(PATIENCE)

    def clear(self) -> None:
        """Remove all instances and bring all engines up."""
        for stop in list(self.streams):  # their clients are gone; the server hears of that a moment later
            stop()
        until(lambda: not self.streams)
        self.settle()
        for engine in ENGINES:
            self.engine(engine)._down = False
            self.engine(engine).latency = 0.0
            self.engine(engine)._instances.clear()
        for key in self.triune.instances.intents():
            self.triune.instances._forget(key)
        for schedule in self.triune.schedules.list():
            self.triune.schedules.delete(schedule.name)
        self.shaper.shaped.clear()
        self.shaper.reason, self.shaper.failure = "", None

    def run(self, *argv: str, stdin: bytes = b"", timeout: float = PATIENCE) -> subprocess.CompletedProcess[bytes]:
        """Run `triune …` against it."""
        return command(argv, env=self.env, stdin=stdin, timeout=timeout)

    def close(self) -> None:
        """End it."""
        self.server.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.triune.close()


def command(
    argv: Sequence[str], *, env: dict[str, str], stdin: bytes = b"", timeout: float = PATIENCE
) -> subprocess.CompletedProcess[bytes]:
    """Run `triune …`."""
    return subprocess.run([str(TRIUNE), *argv], env=env, input=stdin, capture_output=True, timeout=timeout, check=False)
