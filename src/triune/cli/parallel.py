"""Several things at once, in threads that an interrupt does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def at_once(items: Sequence[A], action: Callable[[A], B], *, limit: int = 16) -> list[B]:
    """`action` of each item, in their order, at most `limit` at the same time; raises the first error of any.

    Not an executor of the standard library: the end of the process waits for its threads, and an interrupted command
    would stand there until the daemon has finished.
    """
    found: dict[int, B] = {}
    errors: list[BaseException] = []
    gate = threading.Semaphore(limit)

    def run(number: int, item: A) -> None:
        with gate:
            try:
                found[number] = action(item)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(items)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [found[number] for number in range(len(items))]
