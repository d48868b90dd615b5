"""Working in a file system as another user, in this thread alone, with root's rights kept.

Through an id-mapped mount the host's root has no number, and may make nothing there (EOVERFLOW): what is made must
belong to somebody whom the mount knows. setfsuid(2) says who, for the calling thread; it takes the capabilities of file
systems away (capabilities(7), "Effect of user ID changes"), which are then raised again from the permitted ones.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def as_owner(uid: int, gid: int) -> Iterator[None]:
    """Make files as this user and group. Needs root; raises OSError."""
    before = _LIBC.setfsuid(-1), _LIBC.setfsgid(-1)
    try:
        _LIBC.setfsgid(gid)
        _LIBC.setfsuid(uid)
        _raise_capabilities()
        yield
    finally:
        _LIBC.setfsuid(before[0])
        _LIBC.setfsgid(before[1])


def _raise_capabilities() -> None:
    """Everything permitted becomes effective, in this thread."""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    for call in (_LIBC.capget, _LIBC.capset):
        if call(ctypes.byref(header), data) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        for one in data:
            one.effective = one.permitted
