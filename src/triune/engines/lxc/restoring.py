"""Putting a snapshot back: the new tree is made aside; once it is whole, renames alone put it in place.

    FOLDER/config.restored, FOLDER/triune.json.restored    the configuration and mark to be
    FOLDER/restoring                                       from here on it is decided: whoever finds it goes on

Before `restoring` is there, a failure or a crash leaves the container as it was, and `settle` removes what was aside;
after it, `settle` finishes the work, however often it is interrupted. The pre-start hook settles too. So does a clone
get the identity that was put off (see `renewal`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.engines.lxc import layers, points, renewal, roots, spec
from triune.engines.lxc import mark as marks
from triune.engines.lxc.mark import Mark

_DECIDED = "restoring"
_CONFIG = "config.restored"
_MARK = f"{marks.FILE}.restored"
# What a container is, rather than how it is set: a restore leaves these as they are.
_IDENTITY = ("lxc.uts.name", "lxc.rootfs.", "lxc.hook.", "lxc.console.logfile", "lxc.idmap", "lxc.net.")
_VOLUMES = ("lxc.mount.entry",)


def restore(folder: Path, mark: Mark, point: Path, check: Callable[[], None]) -> Mark:
    """Put back the stopped container in `folder`; returns its mark then. When it raises, it is as before."""
    settle(folder, mark)
    data = mark.data(folder)
    incoming = data / "incoming"
    then = marks.read(point)
    settings = then or mark
    result = replace(mark, settings=settings.settings, disk=settings.disk)
    roots.remove(data / "outgoing")
    # Before the copy: an overlay that goes writes out the whole file system below it.
    layers.unmount_root(folder)
    try:
        roots.copy(point / points.TREE, incoming, check)
        if mark.whole:
            roots.set_limit(incoming, result.disk)
        text = merged((point / "config").read_text(), (folder / "config").read_text())
        marks.write_file(folder / _CONFIG, text.encode(), 0o644, durable=False)
        marks.write_file(folder / _MARK, marks.dump(result), durable=False)
        check()
        marks.write_file(folder / _DECIDED, b"", durable=False)
    except BaseException:
        _forget(folder, data)
        raise
    settle(folder, mark)
    return result


def settle(folder: Path, mark: Mark) -> None:
    """Finish a restore that is decided, or forget one that is not; make a clone itself."""
    data = mark.data(folder)
    if (folder / _DECIDED).exists():
        own, incoming = mark.own(folder), data / "incoming"
        if incoming.exists():
            if own.exists():
                roots.remove(data / "outgoing")
                own.rename(data / "outgoing")
            incoming.rename(own)
        for name, final in ((_CONFIG, "config"), (_MARK, marks.FILE)):
            if (folder / name).exists():
                (folder / name).rename(folder / final)
        (folder / _DECIDED).unlink()
    _forget(folder, data)
    renewal.settle(folder, mark)


def _forget(folder: Path, data: Path) -> None:
    for name in (_CONFIG, _MARK, f".{_CONFIG}.new", f".{_MARK}.new", f".{_DECIDED}.new"):
        (folder / name).unlink(missing_ok=True)
    for tree in ("incoming", "outgoing"):
        try:
            roots.remove(data / tree)
        except TriuneError:
            continue  # it takes nothing but room; the next restore tries again


def merged(then: str, now: str) -> str:
    """The configuration of a snapshot with the identity and the volumes of now."""
    kept = [line for line in then.splitlines() if not _has(line, (*_IDENTITY, *_VOLUMES))]
    own = [line for line in now.splitlines() if _has(line, (*_IDENTITY, *_VOLUMES))]
    return "\n".join([*kept, *own, ""])


def readdressed(text: str, items: spec.Items) -> str:
    """The configuration of a copy: `items` are its cards and its id range, in place of those it has."""
    kept = [line for line in text.splitlines() if not _has(line, ("lxc.net.", "lxc.idmap"))]
    return "\n".join([*kept, *(spec.config_line(key, value) for key, value in items), ""])


def _has(line: str, keys: tuple[str, ...]) -> bool:
    return any(key.startswith(keys) for key, _ in spec.parse(line))
