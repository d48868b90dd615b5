"""What a container holds besides its image: its writable layer and its volumes; exact copies of them, and putting back.

`docker commit` writes a tar archive, which loses attributes, ACLs, fractions of seconds, holes and sockets. So where
the storage driver keeps the layer as a folder (see `layers`), an exact copy of it is kept beside the committed image.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Conflict
from triune.engines.docker import spec
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described
from triune.engines.docker.layers import require_layer
from triune.host import bindmounts
from triune.host.beneath import remove_tree
from triune.host.copytree import copy_tree

_STAGED = ".triune-restore"
_ASIDE = ".triune-before"


@dataclass(frozen=True, slots=True)
class Tree:
    """A volume of a container: where it is mounted inside, its folder on the host, its name ("" of a pool's volume)."""

    target: str
    path: Path
    name: str = ""


def volumes(client: DockerClient, found: Described) -> list[Tree]:
    """Its own volumes: Docker's local ones, and folders of pools. Those it only reads are not its to put back; the
    host's folders and what other drivers mount (NFS) are others'."""
    pools = _pool_targets(found)
    trees = []
    for mount in found.get("Mounts") or ():
        target, source = str(mount.get("Destination")), str(mount.get("Source") or "")
        if not mount.get("RW") or not source:
            continue
        if mount.get("Type") == "volume" and mount.get("Driver") == "local":
            name = str(mount["Name"])
            if not client.read(lambda api, name=name: api.inspect_volume(name)).get("Options"):  # type: ignore[misc]
                trees.append(Tree(target, Path(source), name))
        elif mount.get("Type") == "bind" and target in pools:
            trees.append(Tree(target, Path(source)))
    return trees


def _pool_targets(found: Described) -> frozenset[str]:
    labels: Mapping[str, str] = (found.get("Config") or {}).get("Labels") or {}
    return frozenset(spec.words(labels.get(spec.VOLUMES)))


def sharers(client: DockerClient, found: Described, tree: Tree) -> list[str]:
    """Who else uses a volume: names of other containers that mount it, `process N` for what is none."""
    others = []
    for entry in client.read(lambda api: api.containers(all=True)):
        if entry.get("Id") != found["Id"]:
            for mount in entry.get("Mounts") or ():
                if str(mount.get("Source") or "") == str(tree.path) or (tree.name and mount.get("Name") == tree.name):
                    others.append(str((entry.get("Names") or [entry["Id"]])[0]).removeprefix("/"))
    if others:
        return sorted(set(others))
    own = int((found.get("State") or {}).get("Pid") or 0)
    seen = bindmounts.users(tree.path)
    return [f"process {pid}" for pid in seen if not own or not _same_namespace(pid, own)]


def _same_namespace(pid: int, other: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "ns/mnt").stat().st_ino == (
            Path("/proc") / str(other) / "ns/mnt"
        ).stat().st_ino
    except OSError:
        return False


def require_unshared(client: DockerClient, found: Described, trees: Sequence[Tree]) -> None:
    """Raise Conflict("volume_in_use") where somebody else would see a volume change under them."""
    name = str(found.get("Name", "")).removeprefix("/")
    for tree in trees:
        if others := sharers(client, found, tree):
            raise Conflict(
                "volume_in_use",
                f"the volume at {tree.target} of {name} is used by {', '.join(others)} too",
                hint="Stop what uses it, or detach it, and repeat.",
            )


def require_unraced(client: DockerClient, found: Described) -> None:
    """Raise Conflict("volume_in_use") where somebody who is no container, and so can't be paused, has a volume."""
    name = str(found.get("Name", "")).removeprefix("/")
    for tree in volumes(client, found):
        if any(one.startswith("process ") for one in sharers(client, found, tree)):
            raise Conflict(
                "volume_in_use",
                f"the volume at {tree.target} of {name} is being used by another instance too",
                hint="Stop that one, or detach the volume, and repeat.",
            )


def fill_layer(client: DockerClient, kept: Path, found: Described, check: Callable[[], None]) -> None:
    """Give a container that was never started the layer it is to have. Raises Unsupported("storage_driver")."""
    upper = require_layer(client, found)
    empty(upper)
    copy_tree(kept, upper, check)


def empty(folder: Path) -> None:
    """Remove all that is in a folder nobody else can change."""
    for entry in os.scandir(folder):
        _remove(Path(entry.path))


def _remove(path: Path) -> None:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(facts.st_mode):
        remove_tree(path)
    else:
        path.unlink()


@contextmanager
def replaced(pairs: Sequence[tuple[Path, Path]], check: Callable[[], None]) -> Iterator[None]:
    """Put copies (kept, folder) in the place of the folders' content; it comes back if the block raises.

    Nobody may use the folders meanwhile. The folders themselves stay: they may be mounted, or subvolumes with a quota.
    """
    with ExitStack() as undo:
        for kept, folder in pairs:
            facts = _Facts(folder)
            undo.callback(facts.give, folder)
            for name in (_STAGED, _ASIDE):  # of an attempt that was killed
                _remove(folder / name)
            undo.callback(_remove, folder / _STAGED)
            copy_tree(kept, folder / _STAGED, check)
        for _, folder in pairs:
            undo.callback(_swap_back, folder)
            _swap(folder)
        yield
        undo.pop_all()
    for kept, folder in pairs:
        for name in (_STAGED, _ASIDE):
            _remove(folder / name)
        _Facts(kept).give(folder)


class _Facts:
    """Owner, mode, attributes and times of a folder itself."""

    def __init__(self, folder: Path) -> None:
        self._stat = folder.stat()
        self._attributes = {name: os.getxattr(folder, name) for name in os.listxattr(folder)}

    def give(self, folder: Path) -> None:
        """Give them to another folder."""
        os.chown(folder, self._stat.st_uid, self._stat.st_gid)
        for name in os.listxattr(folder):
            if name not in self._attributes:
                os.removexattr(folder, name)
        for name, value in self._attributes.items():
            os.setxattr(folder, name, value)
        folder.chmod(stat.S_IMODE(self._stat.st_mode))
        os.utime(folder, ns=(self._stat.st_atime_ns, self._stat.st_mtime_ns))


def _swap(folder: Path) -> None:
    aside, staged = folder / _ASIDE, folder / _STAGED
    aside.mkdir(mode=0o700)
    for entry in list(os.scandir(folder)):
        if entry.name not in (_STAGED, _ASIDE):
            (folder / entry.name).rename(aside / entry.name)
    for entry in list(os.scandir(staged)):
        (staged / entry.name).rename(folder / entry.name)


def _swap_back(folder: Path) -> None:
    """Whatever was reached: what is aside comes back, the rest goes."""
    aside = folder / _ASIDE
    if not aside.is_dir():
        return
    for entry in list(os.scandir(folder)):
        if entry.name not in (_STAGED, _ASIDE):
            _remove(folder / entry.name)
    for entry in list(os.scandir(aside)):
        (aside / entry.name).rename(folder / entry.name)
    _remove(aside)
