"""One engine per adapter, one shared running instance per engine, and names that are cleaned up."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.contract.adapters import ADAPTERS, PREFIX, Adapter
from tests.patience import PATIENCE
from triune.domain.operation import Silent
from triune.engines.base import Command, Engine, Session

_numbers = itertools.count(1)


@pytest.fixture(scope="session", params=[pytest.param(one, id=one.name, marks=one.marks) for one in ADAPTERS])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """The engine's adapter."""
    one: Adapter = request.param
    return one


@pytest.fixture(scope="session")
def engine(adapter: Adapter) -> Iterator[Engine]:
    """The engine; every instance of these tests is removed afterwards."""
    made = adapter.make()
    adapter.cleanup(made)
    yield made
    adapter.cleanup(made)


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    """A fresh name, removed afterwards."""
    text = f"{PREFIX}c{next(_numbers)}"
    yield text
    engine.delete(text)


@pytest.fixture
def created(adapter: Adapter, engine: Engine, name: str) -> str:
    """The name of a fresh, stopped instance."""
    engine.create(adapter.plan(engine, name), Silent())
    return name


@pytest.fixture(scope="session")
def running(adapter: Adapter, engine: Engine) -> Iterator[str]:
    """The name of one running instance, shared by tests that leave it as it is."""
    text = f"{PREFIX}shared-{adapter.name}"
    engine.create(adapter.plan(engine, text), Silent())
    engine.start(text, Silent())
    engine.wait_ready(text, adapter.patience, Silent())
    yield text
    engine.delete(text)


class Ended:
    """What a finished session left."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out
        self.err = err


def finish(session: Session, stdin: bytes = b"", *, close: bool = True) -> Ended:
    """Feed stdin from one thread, read in another, as callers do."""

    def feed() -> None:
        if stdin:
            session.write(stdin)
        if close:
            session.close_stdin()

    writer = threading.Thread(target=feed, daemon=True)
    writer.start()
    parts: dict[int, list[bytes]] = {1: [], 2: []}
    while (part := session.read()) is not None:
        parts[part[0]].append(part[1])
    code = session.wait()
    # What a command did not read may hold the writer until then: Docker takes no more of it, and drops nothing.
    session.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    return Ended(code, b"".join(parts[1]), b"".join(parts[2]))


@pytest.fixture
def run(engine: Engine, running: str) -> Callable[..., Ended]:
    """Run a command to its end in the shared instance."""
    if engine.commands is None:
        pytest.skip(f"{engine.name} has no commands facet: {engine.probe().missing.get('commands')}")
    commands = engine.commands

    def call(*argv: str, stdin: bytes = b"", close: bool = True, **options: object) -> Ended:
        return finish(commands.open(running, Command(argv=argv, **options)), stdin, close=close)  # type: ignore[arg-type]

    return call
