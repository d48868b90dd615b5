"""Whatever the bytes are, each parser of VMFS gives a structure or says Damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.disks.vmfs import address, descriptor, directory, lock, lvm, resource, superblock
from triune.disks.vmfs.damaged import Damaged
from triune.disks.vmfs.geometry import Geometry

NARROW = Geometry(major=14, dense=True, sub_block=8192)
WIDE = Geometry(major=24, alignment=4096, fdc_clusters=8, dense=True)
BOTH = st.sampled_from([NARROW, WIDE])
LOCK = struct.pack("<IQ", lock.LockType.DESCRIPTOR, 0x420000)
CLUSTER = struct.pack("<IQ", lock.LockType.FILE_BLOCKS, 0x710000)

PARSERS: dict[str, tuple[bytes, Callable[[bytes, Geometry], object]]] = {
    "superblock": (struct.pack("<IIB", 0x2FABF15E, 14, 81), lambda data, _: superblock.parse(data)),
    "device": (struct.pack("<III", lvm.MAGIC, 6, 21), lambda data, _: lvm.parse_device(data)),
    "share": (b"", lambda data, _: lvm.parse_share(data)),
    "lock": (LOCK, lambda data, _: lock.parse(data)),
    "descriptor": (LOCK, descriptor.parse),
    "resource": (struct.pack("<8I", 64, 8, 0x10000, 8192, 0x100000, 9, 9, 0) + b"dmfr", resource.parse),
    "cluster": (CLUSTER, resource.parse_cluster),
    "header": (struct.pack("<I", 0xF50001), lambda data, _: directory.parse_header(data)),
    "block": (struct.pack("<HHHH", 1, 1, 14, 0), lambda data, _: list(directory.parse_block(data, 0, []))),
    "entry": (struct.pack("<II", 3, 4), lambda data, _: directory.parse_entry(data, 0, 0)),
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60)
@given(data=st.binary(max_size=600), size=st.sampled_from([0, 512, 1024, 4096, 8192]), geometry=BOTH)
def test_a_parser_gives_a_structure_or_says_damaged(name: str, data: bytes, size: int, geometry: Geometry) -> None:
    mark, parse = PARSERS[name]
    try:
        parse((mark + data).ljust(size, data[-1:] or b"\0"), geometry)
    except Damaged as damaged:
        assert damaged.why


@given(st.integers(0, (1 << 64) - 1), BOTH)
def test_an_address_is_of_a_kind_or_damaged(value: int, geometry: Geometry) -> None:
    try:
        found = address.decode(value, geometry)
    except Damaged:
        assert value & 7 in {0, 7}
    else:
        assert found.kind == value & 7


@given(st.integers(0, 0xFFFF), st.integers(0, 0x3FF))
def test_the_address_of_a_descriptor_goes_both_ways(cluster: int, item: int) -> None:
    found = address.decode(address.descriptor(cluster, item), NARROW)
    assert (found.kind, found.cluster, found.item) == (address.Kind.DESCRIPTOR, cluster, item)


def test_a_dense_volume_has_more_sub_blocks_in_a_cluster() -> None:
    value = 2 | 0x18 | 5 << 6 | 0xF << 28
    assert address.decode(value, NARROW).item == 0x3F
    assert address.decode(value, Geometry(major=14)).item == 0xF


def test_a_block_to_be_zeroed_is_told() -> None:
    assert address.decode(1 | 0x20 | 7 << 6, NARROW) == address.Address(address.Kind.FILE_BLOCK, 0, 7, 1)
    wide = address.decode(1 | 0xFF << 7 | 3 << 15 | 5 << 51, WIDE)
    assert (wide.item, wide.zeroed) == (3 * 512 + 5, 0xFF)


@given(data=st.binary(max_size=9000), geometry=BOTH)
@settings(max_examples=60)
def test_a_directory_of_nonsense_has_no_more_entries_than_bytes(data: bytes, geometry: Geometry) -> None:
    data = struct.pack("<IIII", 0xF50001, 9, 9, 1) + data
    data = data.ljust(0x10000, b"\1") + data
    listing = directory.Listing(lambda at, length: data[at : at + length], len(data), geometry)
    assert len(list(listing.entries())) <= len(data) // directory.ENTRY_SIZE


@pytest.mark.parametrize("geometry", [NARROW, WIDE], ids=["narrow", "wide"])
def test_a_folder_that_claims_any_length_is_not_read_without_end(geometry: Geometry) -> None:
    reads = 0

    def refuse(at: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        assert reads < 1 << 19
        raise Damaged(f"nothing is at {at}")

    listing = directory.Listing(refuse, 1 << 62, geometry)
    assert list(listing.entries()) == []
    assert 0 < len(listing.damages) < 5000


def test_a_name_is_one_step_of_a_path() -> None:
    raw = struct.pack("<III", 3, 4, 1) + b"../../etc/passwd".ljust(128, b"\0")
    entry = directory.parse_entry(raw, 0, 0)
    assert entry is not None
    assert "/" not in entry.name
