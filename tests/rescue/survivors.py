"""What of a healthy volume is still there after a damage: the floor under every row of the matrix."""

from __future__ import annotations

from dataclasses import dataclass

from tests.rescue.layout import FILE, FOLDER, LINK, RESIDENT, ROOT, SYSTEM, Meta
from tests.rescue.overlay import Joined, Overlay
from tests.rescue.writer import Writer


@dataclass(frozen=True)
class Survivors:
    """Paths of the files whose descriptor, pointer blocks and bytes are all untouched; and of these, the ones whose
    own entry and those of all folders above are."""

    content: frozenset[str]
    named: frozenset[str]


def survivors(healthy: Writer, damaged: Overlay | Joined) -> Survivors:
    """Compare a damaged copy with the volume that it was."""
    content: set[str] = set()
    named: set[str] = set()
    todo: list[tuple[str, Meta, bool]] = [("", healthy.fd(ROOT), True)]
    while todo:
        path, folder, known = todo.pop()
        for place, name, kind, address in healthy._entries_of(folder):
            if name in {".", ".."} or kind == SYSTEM:
                continue
            meta = healthy.fd(address)
            size = 288 if healthy.six else 140
            told = known and _same(healthy, damaged, healthy.file_offset(folder, place), size)
            if kind == FOLDER:
                todo.append((f"{path}{name}/", meta, told))
            elif kind in {FILE, LINK} and _whole(healthy, damaged, meta):
                content.add(path + name)
                if told:
                    named.add(path + name)
    return Survivors(frozenset(content), frozenset(named))


def _same(healthy: Writer, damaged: Overlay | Joined, offset: int, length: int) -> bool:
    return damaged.read(healthy.base + offset, length) == healthy.read(offset, length)


def _whole(healthy: Writer, damaged: Overlay | Joined, meta: Meta) -> bool:
    if not _same(healthy, damaged, meta.offset, healthy.fd_size):
        return False
    if meta.zla == RESIDENT:
        return True
    pointer = 65536 if healthy.six else 4096
    listed = {address for address in meta.blocks if address}
    for address in healthy.addresses(meta):
        indirect = meta.zla not in {1, 2} and (address in listed or address & 7 != 1)
        size = pointer if indirect else healthy.sub_block if address & 7 == 2 else healthy.file_block
        if not _same(healthy, damaged, healthy.at(address), size):
            return False
    return True
