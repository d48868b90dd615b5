"""Commands that wait for one of a machine's few ports."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engines.kvm.test_kvm_client import require_libvirt

from triune.domain.errors import Conflict, Unsupported
from triune.engines.base import Command
from triune.engines.kvm import commands as module
from triune.engines.kvm.client import no_agent
from triune.engines.kvm.commands import Commands
from triune.engines.kvm.spec import AGENT_PORT

PORT = f"{module.EXEC_PORT}0"


class Domain:
    """A running one with a single port."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def isActive(self) -> int:
        return 1

    def state(self, _flags: int) -> tuple[int, int]:
        return 1, 1

    def XMLDesc(self, _flags: int) -> str:
        channel = f'<channel><source path="/port"/><target name="{PORT}"/></channel>'
        channel += f'<channel><target name="{AGENT_PORT}" state="connected"/></channel>'
        return f'<domain type="{self.kind}"><devices>{channel}</devices></domain>'


class Client:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def apart(self) -> Any:
        return nullcontext()

    def domain(self, _name: str) -> Domain:
        return Domain(self.kind)

    def errors(self, _name: str) -> Any:
        return nullcontext()


@pytest.mark.parametrize("kind", ["kvm", "qemu"])
def test_ports_of_an_emulated_machine_are_waited_for_longer(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_libvirt()
    monkeypatch.setattr(module, "_WAIT_FOR_PORT", 0.1)
    commands = Commands(Client(kind), tmp_path)  # type: ignore[arg-type]
    session = object()
    monkeypatch.setattr(commands, "_start", lambda *_args, **_more: session)
    assert commands.open("one", Command(argv=("true",))) is session
    ends = threading.Timer(1.0, commands._ports.give, ["/port"])
    ends.start()
    try:
        if kind == "kvm":
            with pytest.raises(Conflict) as caught:
                commands.open("one", Command(argv=("true",)))
            assert caught.value.code == "exec_ports_busy"
        else:
            assert commands.open("one", Command(argv=("true",))) is session
    finally:
        ends.cancel()


@pytest.mark.parametrize("kind", ["kvm", "qemu"])
def test_the_agent_of_an_emulated_machine_is_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_libvirt()
    commands, session, asked = Commands(Client(kind), tmp_path), object(), []  # type: ignore[arg-type]

    def start(*_args: object, **_more: object) -> object:
        asked.append(1)
        if len(asked) < 3:
            raise no_agent("one")
        return session

    monkeypatch.setattr(commands, "_start", start)
    if kind == "kvm":
        with pytest.raises(Unsupported):
            commands.open("one", Command(argv=("true",)))
        assert len(asked) == 1
    else:
        assert commands.open("one", Command(argv=("true",))) is session
        commands._ports.give("/port")
    monkeypatch.setattr(module, "_WAIT_EMULATED", 0.0)
    asked.clear()
    with pytest.raises(Unsupported):
        commands.open("one", Command(argv=("true",)))
    assert commands._ports.take({"triune": "/port"}, set(), 0.0) is not None, "it is free again"
