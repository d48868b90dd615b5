"""Where blocks and resources are: one interface for healthy volumes and for those put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from triune.disks.content import Content, Run
from triune.disks.source import Unreadable
from triune.disks.vmfs.address import NAMES, Address, Kind
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import Geometry
from triune.disks.vmfs.resource import ResourceHeader
from triune.disks.vmfs.space import Space


class Resolver(Protocol):
    """What a block map needs to know of a volume. It never raises: what is unknown is a missing run that says why."""

    @property
    def geometry(self) -> Geometry: ...
    @property
    def space(self) -> Space: ...

    def runs(self, address: Address, start: int, length: int) -> Iterator[Run]:
        """Bytes [start, start + length) of a block or resource; the runs' `offset` counts from its begin."""


@dataclass(frozen=True, slots=True)
class ResourceFile:
    """A resource file: its head and its content. The content may have gaps."""

    header: ResourceHeader
    content: Content


@dataclass
class Resources:
    """The resolver of a volume whose resource files are known, wholly or in part."""

    geometry: Geometry
    space: Space
    files: Mapping[Kind, ResourceFile] = field(default_factory=dict)

    def runs(self, address: Address, start: int, length: int) -> Iterator[Run]:
        """See Resolver."""
        if address.kind in (Kind.FILE_BLOCK, Kind.LARGE_BLOCK):
            size = self.geometry.file_block if address.kind == Kind.FILE_BLOCK else self.geometry.large_block
            yield from within(self.space.pieces, address.item * size, size, start, length, str(address))
            return
        file = self.files.get(address.kind)
        if file is None:
            yield Run(start, length, why=f"where {NAMES[address.kind]}s are is not known")
            return
        try:
            place = file.header.offset(address.cluster, address.item)
        except Damaged as damaged:
            yield Run(start, length, why=damaged.why)
            return

        def pieces(offset: int, count: int) -> Iterator[Run]:
            end = min(offset + count, file.content.size)
            if offset < end:
                yield from file.content.runs(offset, end)
            if end < offset + count:
                yield Run(max(offset, end), offset + count - max(offset, end), why=f"{address} is beyond its file")

        yield from within(pieces, place, file.header.size, start, length, str(address))


class _Pieces(Protocol):
    def __call__(self, offset: int, length: int, /) -> Iterator[Run]: ...


def within(pieces: _Pieces, place: int, size: int, start: int, length: int, name: str) -> Iterator[Run]:
    """Bytes [start, start + length) of a thing of `size` bytes at `place`, counted from its begin."""
    there = max(0, min(length, size - start))
    if there:
        for run in pieces(place + start, there):
            yield replace(run, offset=run.offset - place)
    if there < length:
        yield Run(start + there, length - there, why=f"{name} is shorter")


def read(resolver: Resolver, address: Address, start: int, length: int) -> bytes:
    """The bytes of a block or resource. Raises Damaged where any of them is missing."""
    parts = []
    for run in resolver.runs(address, start, length):
        if run.missing:
            raise Damaged(run.why)
        if run.source is None:
            parts.append(bytes(run.length))
            continue
        try:
            part = run.source.read(run.at, run.length)
        except Unreadable as error:
            raise Damaged(error.message) from None
        if len(part) < run.length:
            raise Damaged(f"{run.source.name} ends within {address}")
        parts.append(part)
    return b"".join(parts)
