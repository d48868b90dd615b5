"""The command line on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time

from tests.api.house import TRIUNE, House
from tests.patience import PATIENCE


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, house: House, *argv: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (30, 100))
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [str(TRIUNE), *argv], env=house.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        self.said = b""

    def expect(self, wanted: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.said:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, (wanted, self.said)
            self.said += os.read(self.master, 65536)

    def shows(self, data: bytes, wanted: bytes) -> None:
        """Type it again and again, until what is wanted appears."""
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.said:
            assert time.monotonic() < deadline, (wanted, self.said)
            self.type(data)
            if select.select([self.master], [], [], 0.5)[0]:
                self.said += os.read(self.master, 65536)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def end(self) -> int:
        code = self.process.wait(PATIENCE)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal must be as it was"
        os.close(self.slave)
        os.close(self.master)
        return code
