"""Create an instance and die at a step, as by `kill -9`: `python -m tests.contract.crash ENGINE NAME STEP`.

A program of its own, since a fork of a test process would share connections and threads with it.
"""

from __future__ import annotations

import os
import sys

from tests.contract.adapters import ADAPTERS
from triune.domain.operation import Silent

DIED = 99


class Mortal(Silent):
    """Ends the process at the step with this number."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self, name: str, text: str) -> None:
        del name, text
        if self._left == 0:
            os._exit(DIED)
        self._left -= 1


def main(engine_name: str, name: str, at: int) -> None:
    adapter = next(one for one in ADAPTERS if one.name == engine_name)
    engine = adapter.make()
    engine.create(adapter.plan(engine, name), Mortal(at))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
