"""The command line on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time

from tests.api.house import TRIUNE, House


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
        deadline = time.monotonic() + 10
        while wanted not in self.said:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, (wanted, self.said)
            self.said += os.read(self.master, 65536)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def end(self) -> int:
        code = self.process.wait(10)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal must be as it was"
        os.close(self.slave)
        os.close(self.master)
        return code
