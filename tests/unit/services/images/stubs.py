"""An engine with nothing but a store of OCI images, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from triune.domain.errors import NotFound, Unreachable
from triune.domain.image import FormKind, OciForm
from triune.domain.instance import Instance
from triune.domain.operation import Progress
from triune.engines.base import Credentials, Engine


class MemoryStore:
    """Holds ids by reference. `registry` is what can be pulled."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.registry: set[str] = set()
        self.down = False
        self.loads = 0

    def load_tree(
        self, tar: Iterator[bytes], reference: str, *, command: Sequence[str], labels: Mapping[str, str]
    ) -> OciForm:
        return self._hold(reference, sum(len(chunk) for chunk in tar))

    def load_archive(self, archive: Iterator[bytes], reference: str) -> OciForm:
        return self._hold(reference, sum(len(chunk) for chunk in archive))

    def pull(self, reference: str, credentials: Credentials | None, progress: Progress) -> OciForm:
        if reference not in self.registry:
            raise NotFound("image_not_found", f"There is no {reference}", hint="Check the name.")
        return self._hold(reference, 1000)

    def inspect(self, reference: str) -> Mapping[str, object] | None:
        if self.down:
            raise Unreachable("engine_unreachable", "It is down", hint="Start it.")
        name = reference.removeprefix("sha256:")
        return {"id": f"sha256:{name}", "size": self.held[name]} if name in self.held else None

    def remove(self, reference: str) -> None:
        self.held.pop(reference, None)

    def _hold(self, reference: str, size: int) -> OciForm:
        self.loads += 1
        self.held[reference] = size
        return OciForm(id=f"sha256:{reference}", reference=reference)


class StubEngine:
    """Just enough of an engine."""

    def __init__(self, name: str, kind: FormKind, oci: MemoryStore | None = None) -> None:
        self.name = name
        self.form_kind = kind
        self.oci = oci
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
