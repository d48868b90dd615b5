"""An engine with nothing but a store of OCI images, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from triune.domain.errors import Conflict, Invalid, NotFound, Unreachable
from triune.domain.image import FormKind, OciForm
from triune.domain.instance import Instance
from triune.domain.operation import Progress
from triune.engines.base import Credentials, Engine


class MemoryStore:
    """Sizes by id, and ids by tag. `registry` is what can be pulled; ids `in_use` can't be removed."""

    def __init__(self) -> None:
        self.images: dict[str, int] = {}
        self.tags: dict[str, str] = {}
        self.registry: set[str] = set()
        self.in_use: set[str] = set()
        self.broken = False
        self.down = False
        self.loads = 0

    def load_tree(
        self, tar: Iterator[bytes], reference: str, *, command: Sequence[str], labels: Mapping[str, str]
    ) -> OciForm:
        return self.hold(reference, sum(len(chunk) for chunk in tar))

    def load_archive(self, archive: Iterator[bytes], reference: str) -> OciForm:
        size = sum(len(chunk) for chunk in archive)
        if self.broken:
            raise Invalid("bad_archive", "It is cut off", hint="Make it again.")
        return self.hold(reference, size)

    def pull(self, reference: str, credentials: Credentials | None, progress: Progress) -> OciForm:
        if reference not in self.registry:
            raise NotFound("image_not_found", f"There is no {reference}", hint="Check the name.")
        return self.hold(reference, 1000)

    def inspect(self, reference: str) -> Mapping[str, object] | None:
        if self.down:
            raise Unreachable("engine_unreachable", "It is down", hint="Start it.")
        found = self.tags.get(reference, reference)
        return {"id": found, "size": self.images[found]} if found in self.images else None

    def remove(self, reference: str) -> None:
        found = self.tags.get(reference, reference)
        if found in self.in_use:
            raise Conflict("image_in_use", f"{reference} is used", hint="Remove its containers.")
        self.tags.pop(reference, None)
        if found not in self.tags.values():
            self.images.pop(found, None)

    def clear(self) -> None:
        """Lose everything."""
        self.tags.clear()
        self.images.clear()

    def hold(self, reference: str, size: int) -> OciForm:
        """Tag an image with an id of its own; what had the tag stays without one."""
        self.loads += 1
        made = f"sha256:{self.loads}"
        self.images[made], self.tags[reference] = size, made
        return OciForm(id=made, reference=reference)


class StubEngine:
    """Just enough of an engine."""

    def __init__(self, name: str, kind: FormKind, oci: MemoryStore | None = None) -> None:
        self.name = name
        self.form_kind = kind
        self.oci = oci
        self.templates = None
        self.down = False

    def list(self) -> Sequence[Instance]:
        if self.down:
            raise Unreachable("engine_unreachable", f"{self.name} is down", hint="Start it.")
        return []


def stub_engines(oci: MemoryStore | None) -> dict[str, Engine]:
    made: dict[str, Any] = {
        "trees": StubEngine("trees", FormKind.TREE),
        "disks": StubEngine("disks", FormKind.DISK),
        "boxes": StubEngine("boxes", FormKind.OCI, oci),
    }
    return cast("dict[str, Engine]", made)
