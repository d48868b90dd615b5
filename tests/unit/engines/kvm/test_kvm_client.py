"""The connection to a libvirt that hangs."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from triune.domain.errors import Unreachable
from triune.engines.kvm import client as module
from triune.engines.kvm.client import Client
from triune.host import bindings


def require_libvirt() -> None:
    try:
        bindings.load("libvirt")
    except ImportError:
        pytest.skip("libvirt's binding is not installed")


class Libvirt:
    """A connection whose one answer takes long; `alive` says whether it gives signs of life meanwhile."""

    def __init__(self, alive: bool) -> None:
        self._alive = alive

    def isAlive(self) -> bool:
        return True

    def getLibVersion(self) -> int:
        time.sleep(0 if self._alive else 1)
        return 9_000_000


@pytest.mark.parametrize("alive", [True, False])
def test_a_busy_libvirt_is_waited_for_and_a_hung_one_is_not(alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    require_libvirt()
    monkeypatch.setattr(module, "_SIGN_OF_LIFE", 0.1)
    client = Client("test:///default")
    client._connection = Libvirt(alive)

    def work(_: object) -> str:
        time.sleep(0.6)
        return "done"

    if alive:
        assert client.call(work, seconds=0.2) == "done"
        return
    began = time.monotonic()
    with pytest.raises(Unreachable):
        client.call(work, seconds=0.2)
    assert time.monotonic() - began < 0.5


def test_attempts_to_reach_a_libvirt_that_hangs_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_libvirt()
    path = tmp_path / "hung.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(50)
        client = Client(f"qemu+unix:///system?socket={path}")
        monkeypatch.setattr(module.bounded, "__defaults__", (0.1,))  # PATIENCE
        before = threading.active_count()
        for _ in range(10):
            began = time.monotonic()
            with pytest.raises(Unreachable) as caught:
                client.connection()
            assert caught.value.hint
        assert time.monotonic() - began < 0.05, "the next one is answered at once"
        assert threading.active_count() - before <= 2  # the attempt, and libvirt's event loop
        monkeypatch.setattr(module, "_TRY_AGAIN", 0.0)
        for _ in range(10):
            with pytest.raises(Unreachable):
                client.connection()
        assert threading.active_count() - before <= module._MOST_WAITING + 1
