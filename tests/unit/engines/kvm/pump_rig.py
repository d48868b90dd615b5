"""The pump run on this machine, with a raw pseudo-terminal in place of the virtio-serial port."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import tty
from importlib import resources

from tests.patience import PATIENCE

from triune.engines.base import Command
from triune.engines.kvm.pump import PumpSession, greet, orders

TOKEN = "a1b2c3d4" * 4


class Rig:
    """One pump and its session. `cut` takes the host away, as a daemon that dies does."""

    def __init__(self, command: Command, *, stale: bytes = b"") -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        program = (resources.files("triune.engines.kvm") / "pump.pl").read_bytes()
        self.process = subprocess.Popen(["perl", "-", os.ttyname(slave), TOKEN], stdin=subprocess.PIPE)
        self.process.stdin.write(program)
        self.process.stdin.close()
        self.host, self.inner = socket.socketpair()
        self.released = threading.Event()
        self._stop = threading.Event()
        self.slow = threading.Event()  # set, nothing of the guest's is read
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()
        if stale:
            self.host.sendall(stale)
        decoder = greet(self.host, TOKEN.encode(), PATIENCE)
        os.close(slave)
        self.host.sendall(orders(command, {}))
        self.session = PumpSession(
            self.host,
            decoder,
            terminal=command.terminal is not None,
            release=self.released.set,
            alive=lambda: self.process.poll() is None,
        )

    def _carry(self) -> None:
        self.inner.setblocking(False)
        os.set_blocking(self.master, False)
        down, up = b"", b""
        try:
            while not self._stop.is_set():
                sources = ([self.inner] if len(down) < 65536 else []) + (
                    [self.master] if len(up) < 65536 and not self.slow.is_set() else []
                )
                targets = ([self.master] if down else []) + ([self.inner] if up else [])
                ready, writable, _ = select.select(sources, targets, [], 0.05)
                if self.inner in ready:
                    data = self.inner.recv(65536)
                    if not data:
                        break
                    down += data
                if self.master in ready:
                    up += os.read(self.master, 65536)
                if self.master in writable:
                    down = down[os.write(self.master, down[:4096]) :]
                if self.inner in writable:
                    up = up[self.inner.send(up) :]
        except OSError:
            pass
        finally:
            os.close(self.master)
            self.inner.close()

    def cut(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def finish(self) -> None:
        self.session.close()
        self.cut()
        self.process.wait(PATIENCE)


def run(command: Command, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command to its end: (code, stdout, stderr)."""
    rig = Rig(command)
    outputs = {1: bytearray(), 2: bytearray()}

    def feed() -> None:
        rig.session.write(stdin)
        rig.session.close_stdin()

    writer = threading.Thread(target=feed)
    writer.start()
    while (got := rig.session.read()) is not None:
        outputs[got[0]] += got[1]
    writer.join()
    code = rig.session.wait()
    rig.finish()
    return code, bytes(outputs[1]), bytes(outputs[2])
