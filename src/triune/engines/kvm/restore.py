"""Restoring a saved machine as a new domain, its memory read straight from the template's file.

libvirt wants one file with its own header, the XML, and the memory behind it. A copy of the template's file with
another XML would cost its whole size on disk again for each instance. Instead libvirt opens a FIFO: the header is
written into it, and the memory is spliced in from the page cache, which copies nothing on the way to QEMU.

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
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from triune.engines.kvm.client import Client
from triune.engines.kvm.savefile import Head

_PIECE = 2**20
_PATIENCE = 10.0
_SET_PIPE_SIZE = 1031  # fcntl's F_SETPIPE_SZ


def restore(client: Client, name: str, head: Head, file: BinaryIO, memory: int, fifo: Path) -> None:
    """Restore `head` with the memory that begins at offset `memory` of `file`; `fifo` is made and removed.

    libvirt's errors are raised as ours.
    """
    with _fed(head.packed(), file, memory, fifo):
        client.call(lambda connection: connection.restoreFlags(str(fifo), None, 0), name=name)


@contextlib.contextmanager
def _fed(head: bytes, file: BinaryIO, memory: int, fifo: Path) -> Iterator[None]:
    """A FIFO that gives `head` and the memory to whoever opens it."""
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo, 0o600)
    feeder = threading.Thread(target=_feed, args=(head, file, memory, fifo), name="restore-feed", daemon=True)
    feeder.start()
    try:
        yield
    finally:
        deadline = time.monotonic() + _PATIENCE
        while feeder.is_alive() and time.monotonic() < deadline:
            release(fifo)  # again, for it may come to wait only now
            feeder.join(0.02)
        fifo.unlink(missing_ok=True)


def _feed(head: bytes, file: BinaryIO, memory: int, fifo: Path) -> None:
    # The reader may go away at any time, and tells why.
    with contextlib.suppress(BrokenPipeError, FileNotFoundError), fifo.open("wb", buffering=0) as pipe:
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIECE)
        pipe.write(head)
        offset = memory
        while count := os.splice(file.fileno(), pipe.fileno(), _PIECE, offset_src=offset):
            offset += count


def release(fifo: Path) -> None:
    """Let go whoever still waits for the other end of a FIFO: a writer here, or libvirt after a crash of ours."""
    with contextlib.suppress(OSError):
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
