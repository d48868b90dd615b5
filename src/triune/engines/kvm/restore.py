"""Restoring a saved machine as a new domain, its memory read straight from the template's file.

libvirt wants one file with its own header, the XML, and the memory behind it. A copy of the template's file with
another XML would cost its whole size on disk again for each instance. Instead libvirt opens a FIFO: the header is
written into it, and the memory is spliced in from the page cache, which copies nothing on the way to QEMU.

How often libvirt opens it depends on its version: once before 11.2; since then it reads what lies before the memory,
closes the file, and opens it again to read that once more and to leave the rest to QEMU (libvirt's qemu_saveimage.c:
qemuSaveImageGetMetadata, qemuSaveImageOpen; neither seeks, and no helper process is between as long as nobody asks to
bypass the cache). One FIFO can't tell two readers that follow each other closely apart, and the second would find what
the first has left in it. So each opening gets a FIFO of its own under the same path, and the whole from its beginning.

Measured on two emulated cores, 128 MiB of memory in the file: 0.57 s through the FIFO, 0.80 s through a copied file
(0.1 s of it the copy; and its pages go to disk afterwards). `virsh start` of the same domain is 0.39 s before the guest
does anything: what is left is QEMU reading pages. A memory file mapped privately by QEMU (a true copy-on-write) saves
that too; it was tried and left, see docs/WARM.md: libvirt 9 takes no path for it, QEMU before 8.2 opens it for writing,
and snapshots with memory, `virsh save` and migrations of such a machine would depend on the template.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from triune.engines.kvm.client import Client
from triune.engines.kvm.savefile import Head

_PIECE = 2**20
_PATIENCE = 10.0
_GLANCE = 100  # milliseconds after which one who waits for a reader looks whether it is over
_SET_PIPE_SIZE = 1031  # fcntl's F_SETPIPE_SZ


def restore(client: Client, name: str, head: Head, file: BinaryIO, memory: int, fifo: Path) -> None:
    """Restore `head` with the memory that begins at offset `memory` of `file`; `fifo` is made and removed.

    libvirt's errors are raised as ours.
    """
    with _fed(head.packed(), file, memory, fifo):
        client.call(lambda connection: connection.restoreFlags(str(fifo), None, 0), name=name)


@contextlib.contextmanager
def _fed(head: bytes, file: BinaryIO, memory: int, fifo: Path) -> Iterator[None]:
    """A FIFO that gives `head` and the memory to whoever opens it, as often as it is opened."""
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo, 0o600)
    over = threading.Event()
    feeder = threading.Thread(target=_serve, args=(head, file, memory, fifo, over), name="restore-feed", daemon=True)
    feeder.start()
    try:
        yield
    finally:
        over.set()
        deadline = time.monotonic() + _PATIENCE
        while feeder.is_alive() and time.monotonic() < deadline:
            release(fifo)  # again, for it may come to wait only now
            feeder.join(0.02)
        fifo.unlink(missing_ok=True)


def _serve(head: bytes, file: BinaryIO, memory: int, fifo: Path, over: threading.Event) -> None:
    while True:
        try:
            pipe = os.open(fifo, os.O_WRONLY)  # returns when somebody opens the other end
        except FileNotFoundError:
            return
        try:
            if over.is_set():
                return
            # Whoever opened it waits for the first byte. From here on the path leads to the next one.
            fifo.unlink()
            os.mkfifo(fifo, 0o600)
            # A reader may go away at any time, and libvirt tells why.
            with contextlib.suppress(BrokenPipeError):
                _feed(head, file, memory, pipe, over)
        finally:
            os.close(pipe)


def _feed(head: bytes, file: BinaryIO, memory: int, pipe: int, over: threading.Event) -> None:
    """All of it, or what a reader takes until it is over. Raises BrokenPipeError where the reader is gone."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIECE)
    os.set_blocking(pipe, False)
    rest = memoryview(head)
    while rest and _takes(pipe, over):
        rest = rest[os.write(pipe, rest) :]
    offset = memory
    while _takes(pipe, over) and (count := os.splice(file.fileno(), pipe, _PIECE, offset_src=offset)):
        offset += count


def _takes(pipe: int, over: threading.Event) -> bool:
    """Wait until there is room in the pipe or nobody at its other end; False when it is over."""
    waiting = select.poll()
    waiting.register(pipe, select.POLLOUT)
    while not over.is_set():
        if waiting.poll(_GLANCE):
            return True
    return False


def release(fifo: Path) -> None:
    """Let go whoever still waits for the other end of a FIFO: a writer here, or libvirt after a crash of ours."""
    with contextlib.suppress(OSError):
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
