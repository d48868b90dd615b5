"""The identity of a clone whose root is a btrfs subvolume: given when it first starts, or is first looked into.

Making the snapshot takes a few milliseconds. The first change inside takes ten times as long where the pool has quotas:
the kernel then counts anew all that both trees share. So a clone that nobody uses yet is left as it was copied:

    FOLDER/origin.json    {"version": 1, "name", "mark"} of what it is a copy of: there until the clone is itself

Its root is not mounted before: the pre-start hook takes a mounted one for a sign that all is done.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from triune.engines.lxc import layers, places, seed
from triune.engines.lxc import mark as marks
from triune.engines.lxc.mark import Mark
from triune.host import btrfs

FILE = "origin.json"
_VERSION = 1
# Far more than an identity takes.
_ROOM = 64 << 20


def can_wait(own: Path, mark: Mark) -> bool:
    """Whether the identity of a clone with this root may be put off.

    Not where room is short or limited: who is told that a clone is made must be able to start it.
    """
    return btrfs.is_subvolume(own) and mark.disk is None and shutil.disk_usage(own).free >= _ROOM


def put_off(folder: Path, name: str, before: Mark) -> None:
    """Note that the clone in `folder` is still the image of `name`, whose mark is `before`."""
    data = {"version": _VERSION, "name": name, "mark": marks.dump(before).decode()}
    marks.write_file(folder / FILE, json.dumps(data).encode() + b"\n", durable=False)


def settle(folder: Path, mark: Mark) -> None:
    """Make it itself, if that is still to be done. Repeating does nothing, and goes on where one was cut off.

    Raises Failed("pool_away" | "disk_full" | "hostile_tree").
    """
    path = folder / FILE
    if not path.exists():
        return
    # Two may look into it at the same time, and start it: keys that it has made since must not go once more.
    with layers.locked(mark.state_dir):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return
        if mark.pool is not None:
            places.require(mark.pool)
        seed.reseed(mark.writable(folder), folder.name, *(_parse(text) or (folder.name, replace(mark, cards=()))), mark)
        marks.write(folder, replace(marks.read(folder) or mark, seeded=True))
        path.unlink()


def _parse(text: bytes) -> tuple[str, Mark] | None:
    """Name and mark of what it is a copy of. None where the host lost its power before they were on disk: then a line
    of /etc/hosts stays, and a resolver."""
    try:
        data = json.loads(text)
        if data["version"] != _VERSION:
            return None
        return str(data["name"]), marks.parse(str(data["mark"]).encode())
    except (ValueError, KeyError, TypeError):
        return None
