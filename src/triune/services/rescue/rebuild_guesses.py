"""Names of files that no directory names any more: what descriptors, VMX files and logs say of them.

What even these do not name goes to `lost+found/<kind>/`.
"""

from __future__ import annotations

import re
from collections import Counter

from triune.disks.content import read
from triune.disks.vmfs.address import ROOT
from triune.disks.vmfs.blocks import FileContent
from triune.disks.vmfs.descriptor import Descriptor, FileType
from triune.domain.errors import TriuneError
from triune.services.rescue.generations import Generation, Node, parsed
from triune.services.rescue.rebuild_maps import Maps
from triune.services.rescue.rebuild_names import TEXT, Name, Names

LOST = "lost+found"
_HEAD = 64 << 10
_LONGEST_TEXT = 1 << 20
_EXTENT = re.compile(r'^(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+\w+\s+"([^"/\n]{1,127})"', re.MULTILINE)
_SETTING = re.compile(r'^\s*([A-Za-z0-9_.:]+)\s*=\s*"([^"\n]{1,255})"', re.MULTILINE)
_LOGGED = re.compile(
    r"/vmfs/volumes/[^/\"'\n]{1,127}/([^/\"'\n]{1,127})/([^/\"'\n]{1,120}\.(?:vmx|vmdk|nvram|vmsd|vmxf|vswp))"
)
_TEXTS = (".vmx", ".log", ".vmsd", ".vmxf", ".vmdk")
_KINDS = (
    (b"# Disk DescriptorFile", "descriptors", ".vmdk"),
    (b"KDMV", "disks", ".vmdk"),
    (b"COWD", "disks", ".vmdk"),
    (b"\xbe\xba\xfe\xca", "disks", ".vmdk"),
    (b"MRVN", "nvram", ".nvram"),
    (b"<?xml", "xml", ".vmxf"),
    (b"\x7fELF", "other", ""),
)
_LOG = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d|[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d")
_DISK_SIZE = 1 << 20
_SYSTEM = {
    number << 22 | ROOT: name
    for number, name in enumerate(
        (".fbb.sf", ".fdc.sf", ".pbc.sf", ".sbc.sf", ".vh.sf", ".pb2.sf", ".sdd.sf", ".jbc.sf", ".unmap.sf"), 1
    )
}


class Guesses:
    """Names for the nameless of one volume."""

    def __init__(self, generation: Generation, maps: Maps, names: Names) -> None:
        self._generation, self._maps, self._names = generation, maps, names
        self._nodes = generation.nodes
        self._kinds: dict[int, tuple[str, str]] = {}
        self._lost_folder = names.lost_folder()
        self._taken = {(name.parent, name.name) for name in names.found.values()}
        nameless = [address for address in self._nodes if self._is_nameless(address)]
        self._by_size: dict[tuple[int, int], list[int]] = {}
        for address in nameless:
            descriptor = self._nodes[address].descriptor
            self._by_size.setdefault((descriptor.parent, descriptor.length), []).append(address)
        for address in nameless:
            self._look(address)
        self._name_folders()

    def path(self, address: int, node: Node | None) -> tuple[str, tuple[str, ...]]:
        """(path, evidence) of a file without one: by a guess, or among what is lost. `node` is None if its FD is."""
        if node is not None and node.descriptor.type == FileType.SYSTEM and address in _SYSTEM:
            return _SYSTEM[address], ()
        parts: list[str] = []
        seen: set[int] = set()
        at = address
        evidence: tuple[str, ...] = ()
        while at != ROOT and at not in seen and len(parts) < 128:
            seen.add(at)
            name = self._names.found.get(at)
            known = self._nodes.get(at)
            if name is None:
                parts.append(self._unnamed(at, known))
                return "/".join([LOST, *reversed(parts)]), evidence
            evidence = evidence or (name.evidence,)
            parts.append(name.name)
            at = name.parent or (known.descriptor.parent if known is not None else 0)
            if not at:
                return "/".join([LOST, "folderless", *reversed(parts)]), evidence
        return "/".join(reversed(parts)), evidence

    def _unnamed(self, address: int, node: Node | None) -> str:
        if node is None or node.descriptor.folder:
            return f"folders/{address:08x}"
        kind, suffix = self._kinds.get(address) or self._kind(address)
        return f"{kind}/{address:08x}{suffix}"

    def _is_nameless(self, address: int) -> bool:
        node = self._nodes[address]
        if address == ROOT or node.descriptor.type in (FileType.SYSTEM, FileType.FOLDER) or not node.descriptor.links:
            return False
        return address not in self._names.found

    def _look(self, address: int) -> None:
        """Read the begin of a nameless file, for its kind and for names in it."""
        self._kinds[address] = self._kind(address)
        kind, _ = self._kinds[address]
        if kind == "descriptors":
            self._of_descriptor(address)
        elif kind == "machines":
            self._of_machine(address)
        elif kind == "logs":
            self._offer(address, "vmware.log", address)

    def _kind(self, address: int) -> tuple[str, str]:
        """(folder, suffix) by what a file begins with."""
        node = self._nodes[address]
        if node.descriptor.type == FileType.RDM:
            return "raw devices", "-rdm.vmdk"
        if node.descriptor.type == FileType.LINK:
            return "links", ""
        head = self._head(address, 4096)
        for start, kind, suffix in _KINDS:
            if head.startswith(start):
                return kind, suffix
        if _LOG.match(head):
            return "logs", ".log"
        text = head[:2048].decode("latin-1")
        if "config.version" in text or "virtualHW.version" in text or "displayName" in text:
            return "machines", ".vmx"
        if node.descriptor.length >= _DISK_SIZE and node.descriptor.length % 512 == 0:
            return "disks", "-flat.vmdk"
        return "other", ""

    def _head(self, address: int, length: int) -> bytes:
        loaded = self._loaded(address)
        if loaded is None:
            return b""
        try:
            return read(FileContent(loaded, self._maps.resources), 0, length)
        except TriuneError:
            return b""

    def _loaded(self, address: int) -> Descriptor | None:
        data = self._generation.read(self._nodes[address].place, self._maps.geometry.descriptor_size)
        return parsed(data, self._maps.geometry)

    def _of_descriptor(self, address: int) -> None:
        """A VMDK descriptor names its extents, and so itself."""
        text = self._head(address, _HEAD).decode("utf-8", "replace")
        for sectors, name in _EXTENT.findall(text):
            for ending in ("-flat.vmdk", "-delta.vmdk", "-sesparse.vmdk", "-rdm.vmdk", "-rdmp.vmdk"):
                if name.endswith(ending):
                    self._offer(address, name.removesuffix(ending) + ".vmdk", address)
            self._offer_extent(address, name, int(sectors) * 512)

    def _offer_extent(self, descriptor: int, name: str, size: int) -> None:
        """The one nameless file of that size in the descriptor's folder."""
        parent = self._nodes[descriptor].descriptor.parent
        fits = [address for address in self._by_size.get((parent, size), ()) if self._is_nameless(address)]
        if len(fits) == 1:
            self._offer(fits[0], name, descriptor)

    def _of_machine(self, address: int) -> None:
        """A VMX names its companions, and by one of them itself."""
        settings = dict(_SETTING.findall(self._head(address, _HEAD).decode("utf-8", "replace")))
        for key in ("nvram", "extendedConfigFile", "extendedconfigfile"):
            value = settings.get(key, "")
            if value and "/" not in value and "." in value:
                self._offer(address, value.rpartition(".")[0] + ".vmx", address)
                return
        if settings.get("displayName"):
            self._offer(address, settings["displayName"].replace("/", "_") + ".vmx", address)

    def _name_folders(self) -> None:
        """A folder whose name is lost: logs and settings in it have paths that lead into it."""
        children: dict[int, dict[int, str]] = {}
        for address, name in list(self._names.found.items()):
            children.setdefault(name.parent, {})[address] = name.name
        for address, node in self._nodes.items():
            if node.descriptor.folder and address != ROOT and self._names.path(address) is None:
                called = self._folder_name(children.get(address, {}))
                if called and address not in self._names.found:
                    self._offer(address, called, address)

    def _folder_name(self, children: dict[int, str]) -> str:
        """What most paths in its files call it; else as its only VMX is called, as ESXi does it."""
        votes: Counter[str] = Counter()
        inside = set(children.values())
        for address, name in children.items():
            node = self._nodes.get(address)
            if node is None or not name.endswith(_TEXTS) or node.descriptor.length > _LONGEST_TEXT:
                continue
            text = self._head(address, _LONGEST_TEXT).decode("utf-8", "replace")
            votes.update(folder for folder, file in _LOGGED.findall(text) if file in inside)
        machines = [name for name in children.values() if name.endswith(".vmx")]
        if votes:
            return votes.most_common(1)[0][0]
        return machines[0].removesuffix(".vmx") if len(machines) == 1 else ""

    def _offer(self, address: int, name: str, beside: int) -> None:
        """A name, in the folder its FD or that of the file beside tells, or in the only one it can be in."""
        node, other = self._nodes.get(address), self._nodes.get(beside)
        parent = (node.descriptor.parent if node is not None else 0) or (
            other.descriptor.parent if other is not None and beside != address else 0
        )
        parent = parent or self._lost_folder
        kind = node.descriptor.type if node is not None else FileType.FOLDER
        generation = node.descriptor.generation if node is not None else 0
        if (parent, name) not in self._taken:
            self._taken.add((parent, name))
            self._names.offer(address, Name(name, parent, int(kind), generation, TEXT))
