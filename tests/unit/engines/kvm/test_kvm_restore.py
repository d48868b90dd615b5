"""The FIFO that libvirt restores from: the head, then the memory, and nobody is left waiting."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.patience import threads, until

from triune.domain.errors import Failed
from triune.engines.kvm import restore
from triune.engines.kvm.savefile import Head

HEAD = Head(xml="<domain/>", cookie="<cookie/>")


class Libvirt:
    """Stands for the client: restores by reading as much of the file as it is told to."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.got = b""

    def call(self, work: Any, *, name: str) -> None:
        del name
        work(self)

    def restoreFlags(self, path: str, xml: object, flags: int) -> None:
        del xml, flags
        if self.most == 0:
            raise Failed("libvirt_failed", "it never opened the file")
        with Path(path).open("rb") as file:
            self.got = file.read(self.most)
        if self.most is not None:
            raise Failed("libvirt_failed", "it broke off")


def run(tmp_path: Path, libvirt: Libvirt, memory: bytes) -> None:
    template = tmp_path / "memory"
    template.write_bytes(b"the template's own head" + memory)
    with template.open("rb") as file:
        restore.restore(libvirt, "one", HEAD, file, 23, tmp_path / "fifo")  # type: ignore[arg-type]


def test_the_head_and_then_the_memory(tmp_path: Path) -> None:
    libvirt, memory = Libvirt(None), bytes(range(256)) * 20000
    run(tmp_path, libvirt, memory)
    assert libvirt.got == HEAD.packed() + memory
    assert not (tmp_path / "fifo").exists()


@pytest.mark.parametrize("most", [0, 10, 5000])
def test_a_reader_that_breaks_off_leaves_nobody_waiting(tmp_path: Path, most: int) -> None:
    before = threads()
    with pytest.raises(Failed):
        run(tmp_path, Libvirt(most), bytes(8 << 20))
    until(lambda: threads() <= before)
    assert not (tmp_path / "fifo").exists()


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
