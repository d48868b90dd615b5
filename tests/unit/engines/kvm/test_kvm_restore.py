"""The FIFO that libvirt restores from: the head, then the memory, and nobody is left waiting."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.patience import Awake, threads

from triune.domain.errors import Failed
from triune.engines.kvm import restore
from triune.engines.kvm.savefile import Head

HEAD = Head(xml="<domain/>", cookie="<cookie/>")
_HANGS = 5.0
_SOON = 5.0


class Libvirt:
    """Stands for the client: restores by reading as much of the file as it is told to.

    libvirt before 11.2 opens the file once. Later ones open it to read what lies before the memory, close it, and open
    it again to read all of it: `looks` is how often they only look.
    """

    def __init__(self, most: int | None, *, looks: int = 0) -> None:
        self.most = most
        self.looks = looks
        self.got = b""
        self.seen: list[bytes] = []

    def call(self, work: Any, *, name: str) -> None:
        del name
        work(self)

    def restoreFlags(self, path: str, xml: object, flags: int) -> None:
        del xml, flags
        if self.most == 0:
            raise Failed("libvirt_failed", "it never opened the file")
        with _let_go(Path(path)):
            for _ in range(self.looks):
                with Path(path).open("rb", buffering=0) as file:
                    self.seen.append(_exactly(file, len(HEAD.packed())))
            with Path(path).open("rb") as file:
                self.got = file.read(self.most)
        if self.most is not None:
            raise Failed("libvirt_failed", "it broke off")


@contextlib.contextmanager
def _let_go(fifo: Path) -> Iterator[None]:
    """Whoever would wait without an end for the FIFO's other end finds it empty instead."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_HANGS):
            restore.release(fifo)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _exactly(file: io.FileIO, count: int) -> bytes:
    got = b""
    while len(got) < count and (piece := file.read(count - len(got))):
        got += piece
    return got


def run(tmp_path: Path, libvirt: Libvirt, memory: bytes) -> None:
    template = tmp_path / "memory"
    template.write_bytes(b"the template's own head" + memory)
    with template.open("rb") as file:
        restore.restore(libvirt, "one", HEAD, file, 23, tmp_path / "fifo")  # type: ignore[arg-type]


@pytest.mark.parametrize("looks", [0, 1, 2])
@pytest.mark.parametrize("pieces", [0, 1, 20000], ids=["empty", "small", "large"])
def test_each_opening_gives_the_head_and_then_the_memory(tmp_path: Path, looks: int, pieces: int) -> None:
    memory, head, before = bytes(range(256)) * pieces, HEAD.packed(), threads()
    for _ in range(20):  # where the openings follow each other closely
        libvirt = Libvirt(None, looks=looks)
        run(tmp_path, libvirt, memory)
        assert libvirt.seen == [head] * looks
        assert libvirt.got == head + memory
        assert list(tmp_path.iterdir()) == [tmp_path / "memory"]
    assert threads() <= before


@pytest.mark.parametrize("looks", [0, 1])
@pytest.mark.parametrize("most", [0, 10, 5000])
def test_a_reader_that_breaks_off_leaves_nobody_waiting(tmp_path: Path, most: int, looks: int) -> None:
    before = threads()
    with pytest.raises(Failed):
        run(tmp_path, Libvirt(most, looks=looks), bytes(8 << 20))
    assert threads() <= before
    assert list(tmp_path.iterdir()) == [tmp_path / "memory"]


class Stuck(Libvirt):
    """A libvirt that is given up while it, or its QEMU, holds the file and reads no more."""

    def restoreFlags(self, path: str, xml: object, flags: int) -> None:
        del xml, flags
        self.held = Path(path).open("rb", buffering=0)  # noqa: SIM115 - that is the case
        self.held.read(10)
        raise Failed("libvirt_failed", "it does not answer any more")


def test_a_reader_that_stands_still_is_not_waited_for(tmp_path: Path) -> None:
    before, libvirt = threads(), Stuck(None)
    with Awake() as awake, pytest.raises(Failed):
        run(tmp_path, libvirt, bytes(8 << 20))
    assert awake.seconds < _SOON
    assert threads() <= before, "it must not go on with a file that its caller closes"
    with libvirt.held as file:
        while file.read(1 << 20):  # and the reader gets an end
            pass
    assert list(tmp_path.iterdir()) == [tmp_path / "memory"]


def test_one_that_asks_again_is_served_again(tmp_path: Path) -> None:
    """The client repeats a call when the connection broke off: libvirt was restarted in the middle."""

    class Restarted(Libvirt):
        def call(self, work: Any, *, name: str) -> None:
            self.most = 5000
            with pytest.raises(Failed):
                super().call(work, name=name)
            self.most = None
            super().call(work, name=name)

    libvirt, memory = Restarted(None, looks=1), bytes(range(256)) * 20000
    run(tmp_path, libvirt, memory)
    assert libvirt.got == HEAD.packed() + memory


def test_who_waits_for_a_writer_that_is_gone_is_let_go(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    restore.release(fifo)
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    while reader.is_alive():
        restore.release(fifo)
        reader.join(0.05)
    assert got == [b""]
