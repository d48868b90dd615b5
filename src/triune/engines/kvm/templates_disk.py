"""Templates on disk: a folder for each, complete or not there.

KEY/
    template.json   {image, created, facts, token}; where this image can't be kept warm, {image, created, facts, failed}
    disk.qcow2      the overlay that the machine booted on
    memory          libvirt's save file
KEY.part/           one that is being made
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

_RECORD = "template.json"
_PART = ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One template. `token` is what its waiting program answers to; `failed` says why there is none."""

    key: str
    folder: Path
    image: str
    created: datetime
    facts: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    failed: str = ""

    @property
    def disk(self) -> Path:
        """The overlay."""
        return self.folder / "disk.qcow2"

    @property
    def memory(self) -> Path:
        """The save file."""
        return self.folder / "memory"

    def size(self) -> int:
        """Bytes on disk."""
        try:
            return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self.folder))
        except FileNotFoundError:
            return 0


class Shelf:
    """The folder of all templates of one engine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Template | None:
        """The complete (or failed) one of that key."""
        folder = self.root / key
        try:
            record = json.loads((folder / _RECORD).read_text())
            template = Template(
                key=key,
                folder=folder,
                image=str(record["image"]),
                created=datetime.fromisoformat(record["created"]),
                facts={str(name): str(value) for name, value in record.get("facts", {}).items()},
                token=str(record.get("token", "")),
                failed=str(record.get("failed", "")),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return template if template.failed or template.memory.exists() else None

    def all(self) -> Iterator[Template]:
        """Every one."""
        for key in self._names():
            template = self.find(key)
            if template is not None:
                yield template

    def begin(self, key: str) -> Path:
        """An empty folder to make one in."""
        # QEMU's user must be able to pass through, and nobody to look in.
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        part = self.part(key)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o711)
        return part

    def part(self, key: str) -> Path:
        """Where it is made."""
        return self.root / f"{key}{_PART}"

    def publish(self, template: Template) -> None:
        """Put what was made in `part(key)` in its place, with its record."""
        part = self.part(template.key)
        record = {name: value for name, value in asdict(template).items() if value and name not in ("key", "folder")}
        (part / _RECORD).write_text(json.dumps({**record, "created": template.created.isoformat()}))
        self.drop(template.key)
        part.rename(template.folder)

    def drop(self, key: str) -> None:
        """Remove it. Machines that started from it need it no more."""
        gone = self.part(f"{key}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        try:
            (self.root / key).rename(gone)  # at once, so that nobody starts from half of it
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self, busy: set[str]) -> None:
        """Remove what was never completed, and what cannot be read, but not what is being made now."""
        for name in self._names():
            key = name.removesuffix(_PART)
            if key not in busy and (name.endswith(_PART) or self.find(name) is None):
                shutil.rmtree(self.root / name, ignore_errors=True)

    def _names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self.root.iterdir())
        except FileNotFoundError:
            return []
