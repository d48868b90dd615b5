"""The mark: `triune.json` beside the container's LXC configuration. It says that we made it, and from what.

A container with a mark but no configuration is half-made: invisible to LXC, removed by `delete`. Format, version 1:

    {"version": 1, "image", "created" (ISO 8601), "tree" (lower root), "lower" (mounted id-mapped view of it, or the
     tree itself), "state_dir", "id_map": [base, count] or null, "settings": {}, "machine_id",
     "cards": [{"network", "bridge", "mac", "address", "prefix", "gateway", "domain", "host_interface"}],
     "publish": [], "volumes": [{"source", "target", "read_only", "place", "volume"}], "seeded": bool,
     "pool": {"name", "driver", "path"} or null, "whole": bool, "disk": bytes or null}

`pool`, `whole` and `disk` are missing in older ones: no pool, layers, no limit.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed
from triune.domain.pool import PoolDriver, PoolPlace
from triune.host.idmap import IdRange

FILE = "triune.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One network card as it was reserved."""

    network: str
    bridge: str
    mac: str
    address: str
    prefix: int
    gateway: str
    domain: str
    host_interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """One host folder or file seen inside. `place` is where below NAME/volumes the host shows it to the container;
    `volume` the name of the volume it is, "" for any other folder."""

    source: str
    target: str
    read_only: bool
    place: str = ""
    volume: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What `triune.json` holds. `lower` is where the shared layer is mounted for this id range.

    `whole`: the root is a tree of its own (a btrfs subvolume, or what a backup held) with ids as seen inside; else it
    is layers, and what it changed has the mapped ids. `disk` limits a subvolume, in bytes.
    """

    image: str
    created: datetime
    tree: Path
    lower: Path
    state_dir: Path
    id_map: IdRange | None
    settings: dict[str, str] = field(default_factory=dict)
    machine_id: str = ""
    cards: tuple[Card, ...] = ()
    publish: tuple[str, ...] = ()
    volumes: tuple[Bind, ...] = ()
    seeded: bool = False
    pool: PoolPlace | None = None
    whole: bool = False
    disk: int | None = None

    def data(self, folder: Path) -> Path:
        """Where the container in `folder` keeps its root and its snapshots: there, or in its pool."""
        return self.pool.path / "instances" / "lxc" / folder.name if self.pool else folder

    def writable(self, folder: Path) -> Path:
        """Where the host writes into the root, mounted before (`layers.mount_root`).

        Through the id-mapped view of a whole root the host's root can't: it has no number inside.
        """
        return self.own(folder) if self.whole else folder / "rootfs"

    def own(self, folder: Path) -> Path:
        """The tree of what the container itself wrote."""
        return self.data(folder) / ("root" if self.whole else "upper")


def dump(mark: Mark) -> bytes:
    """The mark as JSON."""
    data: dict[str, Any] = {
        "version": _VERSION,
        **{one.name: getattr(mark, one.name) for one in fields(mark)},  # `asdict` would copy paths, which takes long
        "cards": [asdict(card) for card in mark.cards],
        "volumes": [asdict(volume) for volume in mark.volumes],
        "created": mark.created.isoformat(),
        "tree": str(mark.tree),
        "lower": str(mark.lower),
        "state_dir": str(mark.state_dir),
        "id_map": [mark.id_map.base, mark.id_map.count] if mark.id_map else None,
        "pool": _pool(mark.pool) if mark.pool else None,
    }
    return json.dumps(data, indent=1).encode() + b"\n"


def _pool(pool: PoolPlace) -> dict[str, str]:
    return {"name": pool.name, "driver": pool.driver.value, "path": str(pool.path)}


def parse(text: bytes) -> Mark:
    """Read `dump`'s output. Raises ValueError when it is not a mark."""
    try:
        data = json.loads(text)
        if data["version"] != _VERSION:
            raise ValueError(f"unknown version {data['version']!r}")
        return Mark(
            image=str(data["image"]),
            created=datetime.fromisoformat(data["created"]),
            tree=Path(data["tree"]),
            lower=Path(data["lower"]),
            state_dir=Path(data["state_dir"]),
            id_map=IdRange(*map(int, data["id_map"])) if data["id_map"] else None,
            settings={str(key): str(value) for key, value in data["settings"].items()},
            machine_id=str(data["machine_id"]),
            cards=tuple(Card(**card) for card in data["cards"]),
            publish=tuple(map(str, data["publish"])),
            volumes=tuple(Bind(**{"place": str(index), **volume}) for index, volume in enumerate(data["volumes"])),
            seeded=bool(data["seeded"]),
            pool=_parsed_pool(data.get("pool")),
            whole=bool(data.get("whole", False)),
            disk=None if data.get("disk") is None else int(data["disk"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a mark: {error!r}") from None


def _parsed_pool(data: dict[str, str] | None) -> PoolPlace | None:
    if data is None:
        return None
    return PoolPlace(name=str(data["name"]), driver=PoolDriver(data["driver"]), path=Path(data["path"]))


def read(folder: Path) -> Mark | None:
    """The mark of the container in this folder; None where there is none. Raises Failed("mark_unreadable")."""
    path = folder / FILE
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise Failed(
            "mark_unreadable",
            f"the file {path} can't be read: {error}",
            hint=f"Restore it, or remove it to treat {folder.name} as a container made by hand.",
        ) from None


def write(folder: Path, mark: Mark, *, durable: bool = True) -> None:
    """Write it in one step, readable by root only."""
    write_file(folder / FILE, dump(mark), durable=durable)


def write_file(path: Path, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Replace a file of ours in one step; `durable`: on disk before it has its name.

    Not `durable` is for what comes right after the copy of a tree: on ext4 the file would wait for all of that. A crash
    of the daemon loses nothing either way, only one of the host could.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fdatasync(fd)
    fresh.rename(path)
