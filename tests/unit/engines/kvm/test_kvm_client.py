"""The connection to a libvirt that hangs."""

from __future__ import annotations

import errno
import socket
import threading
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.domain.errors import Failed, Unreachable
from triune.engines.kvm import client as module
from triune.engines.kvm.client import Client
from triune.host import bindings


def require_libvirt() -> None:
    try:
        bindings.load("libvirt")
    except ImportError:
        pytest.skip("libvirt's binding is not installed")


class Libvirt:
    """A connection that stands."""

    def isAlive(self) -> bool:
        return True


def client_of(alive: bool) -> Client:
    """Connected; `alive` says whether another connection would be had too."""

    class Connected(Client):
        def open(self, seconds: float = module.PATIENCE) -> Libvirt:
            if not alive:
                raise module.unreachable(self.uri, f"no answer within {seconds:g} s")
            return Libvirt()

    client = Connected("test:///default")
    client._connection = Libvirt()
    return client


@pytest.mark.parametrize("alive", [True, False])
def test_a_busy_libvirt_is_waited_for_and_a_hung_one_is_not(alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    require_libvirt()
    monkeypatch.setattr(module, "_SIGN_OF_LIFE", 0.1)
    client, over = client_of(alive), threading.Event()

    def work(_: object) -> str:
        over.wait(0.6 if alive else PATIENCE)
        return "done"

    if alive:
        assert client.call(work, seconds=0.2) == "done"
        return
    with pytest.raises(Unreachable):
        client.call(work, seconds=0.2)
    assert not over.is_set(), "it has answered nothing yet"
    over.set()


@pytest.mark.parametrize("meanwhile", [True, False])
def test_an_answer_to_another_is_a_sign_of_life(meanwhile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    require_libvirt()
    monkeypatch.setattr(module, "_SIGN_OF_LIFE", 0.1)
    client, over = client_of(alive=False), threading.Event()

    def work(_: object) -> str:
        if meanwhile:
            assert client.call(lambda _: "another") == "another"
        over.wait(0.8 if meanwhile else PATIENCE)
        return "done"

    assert client.call(lambda _: "before") == "before"
    if meanwhile:
        assert client.call(work, seconds=0.3) == "done"
        return
    with pytest.raises(Unreachable):
        client.call(work, seconds=0.3)
    over.set()


def test_apart_is_a_connection_of_the_threads_own() -> None:
    require_libvirt()
    client = client_of(alive=True)
    shared, others = client.connection(), []
    with client.apart():
        own = client.connection()
        with client.apart():
            assert client.connection() is own is not shared
        thread = threading.Thread(target=lambda: others.append(client.connection()))
        thread.start()
        thread.join(PATIENCE)
        assert client.connection() is own
    assert others == [shared] == [client.connection()]


@pytest.mark.parametrize(("number", "code"), [(errno.EAGAIN, "system_busy"), (errno.ENOENT, "libvirt_failed")])
def test_what_the_system_asks_to_try_again_is_tried_again(
    number: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_libvirt()
    monkeypatch.setattr(module, "_BREATH", 0.0)
    virt = bindings.load("libvirt")
    client, tries = client_of(alive=True), []

    def refuse_until(last: int) -> str:
        tries.append(1)
        if len(tries) == last:
            return "done"
        error = virt.libvirtError("")
        error.err = (virt.VIR_ERR_SYSTEM_ERROR, virt.VIR_FROM_CGROUP, "failed to load", 2, "", "", "", number, -1)
        raise error

    if code == "system_busy":
        assert module.insist(lambda: client.call(lambda _: refuse_until(3))) == "done"
        tries.clear()
    with pytest.raises(Failed) as caught:
        module.insist(lambda: client.call(lambda _: refuse_until(100)))
    assert caught.value.code == code
    assert len(tries) == (module._TRIES if code == "system_busy" else 1)


def test_attempts_to_reach_a_libvirt_that_hangs_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_libvirt()
    path = tmp_path / "hung.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(50)
        client = Client(f"qemu+unix:///system?socket={path}")
        monkeypatch.setattr(module.bounded, "__defaults__", (0.1,))  # PATIENCE
        monkeypatch.setattr(module, "_TRY_AGAIN", 10 * PATIENCE)
        before = set(threading.enumerate())

        def attempts() -> int:
            return sum(thread.name == "libvirt-call" for thread in set(threading.enumerate()) - before)

        for _ in range(10):
            with pytest.raises(Unreachable) as caught:
                client.connection()
            assert caught.value.hint
        assert attempts() == 1, "the next one is answered at once"
        monkeypatch.setattr(module, "_TRY_AGAIN", 0.0)
        for _ in range(10):
            with pytest.raises(Unreachable):
                client.connection()
        assert attempts() <= module._MOST_WAITING
