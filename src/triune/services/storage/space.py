"""A full pool, said in the same words whoever meets it first."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from triune.domain.errors import Failed

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def filling(pool: str) -> Iterator[None]:
    """Raise Failed("pool_full") for whatever in the block met the end of the pool's space."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(pool) from error
        raise
    except Failed as error:
        said = any(os.strerror(number) in error.message for number in _FULL)
        if error.code == "no_space" or (error.code == "command_failed" and said):
            raise full(pool) from error
        raise


def full(pool: str) -> Failed:
    """The error for a pool without room."""
    return Failed(
        "pool_full",
        f"no space is left in the pool {pool}; what was begun was removed again",
        hint=f"See: triune pool show {pool}. Make room, or use another pool: --pool",
    )
