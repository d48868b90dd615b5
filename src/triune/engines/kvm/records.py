"""What libvirt knows of a domain's snapshots, carried through a renaming (which libvirt refuses while it knows any).

Before libvirt is made to forget, it is all written to `.UUID.snapshots.json` in the engine's folder, a list of
[text, whether the domain stands on it];
what a crash leaves there is told to libvirt again as soon as anybody asks for the domain's snapshots.
"""

from __future__ import annotations

import contextlib
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triune.engines.kvm import folders
from triune.engines.kvm.client import Client, library
from triune.engines.kvm.paths import move


class Records:
    """Of all domains."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir

    @contextlib.contextmanager
    def carried(self, domain: Any) -> Iterator[None]:
        """Within it libvirt knows no snapshots of the domain; afterwards all again, fitting its new definition."""
        self.mend(domain)
        with self._client.errors(str(domain.name())):
            uuid = str(domain.UUIDString())
            kept = self._take(domain, uuid)
        try:
            yield
        finally:
            if kept:
                self._give(uuid)

    def mend(self, domain: Any) -> None:
        """Tell libvirt what a crash made it forget."""
        with self._client.errors():
            uuid = str(domain.UUIDString())
        if self._file(uuid).exists():
            self._give(uuid)

    def sweep(self) -> None:
        """Forget what was written down of domains that are gone, the bases of their backups too."""
        files = [*self._state_dir.glob(".*.snapshots.json"), *self._state_dir.glob(".*.backups.json")]
        if files:
            known = self._client.call(lambda c: {domain.UUIDString() for domain in c.listAllDomains(0)})
            for file in files:
                if file.name.split(".")[1] not in known:
                    file.unlink(missing_ok=True)

    def _take(self, domain: Any, uuid: str) -> bool:
        virt = library()
        handles = domain.listAllSnapshots(virt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
        if not handles:
            return False
        secure = virt.VIR_DOMAIN_SNAPSHOT_XML_SECURE
        self._write(uuid, [(handle.getXMLDesc(secure), bool(handle.isCurrent())) for handle in handles])
        for handle in handles:
            handle.delete(virt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        return True

    def _give(self, uuid: str) -> None:
        virt = library()
        file = self._file(uuid)
        domain = self._client.call(lambda connection: connection.lookupByUUIDString(uuid))
        with self._client.errors(str(domain.name())):
            defined = ET.fromstring(domain.XMLDesc(virt.VIR_DOMAIN_XML_INACTIVE))  # noqa: S314 - from libvirt
            for text, current in json.loads(file.read_text()):
                flags = virt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
                if current:
                    flags |= virt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
                domain.snapshotCreateXML(self._fitting(text, defined), flags)
        file.unlink()

    def _fitting(self, text: str, defined: ET.Element) -> str:
        """A snapshot's text with the name and the folder the domain has now."""
        root = ET.fromstring(text)  # noqa: S314 - from libvirt
        for element in (*root.iterfind("domain"), *root.iterfind("inactiveDomain")):
            old, new = (folders.of(one, self._state_dir) for one in (element, defined))
            if old is not None and new is not None:
                move(element, old, new)
            name = element.find("name")
            if name is not None:
                name.text = defined.findtext("name")
        return ET.tostring(root, encoding="unicode")

    def _write(self, uuid: str, kept: list[tuple[str, bool]]) -> None:
        self._state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        half = self._file(uuid).with_suffix(".new")
        half.touch(mode=0o600)
        with half.open("w") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        half.rename(self._file(uuid))

    def _file(self, uuid: str) -> Path:
        return self._state_dir / f".{uuid}.snapshots.json"
