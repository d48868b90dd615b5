"""Addresses: every form, what is refused, and that none comes out as another one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Invalid, TriuneError
from triune.services.rescue.esxi.address import Address, Place, is_address, parse_address

NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.parametrize(
    ("text", "expected", "place"),
    [
        ("esxi://esx1", Address("esx1"), Place.HOST),
        ("esxi://esx1/", Address("esx1"), Place.HOST),
        ("ESXI://admin@ESX1.lab:8443", Address("esx1.lab", "admin", 8443), Place.HOST),
        ("esxi://a@b@esx1/ds", Address("esx1", "a@b", None, ("ds",)), Place.DATASTORE),
        ("esxi://[fe80::1]:1/d%20s/a b", Address("fe80::1", "root", 1, ("d s", "a b")), Place.DATASTORE),
        ("esxi://h/vmfs/volumes/ds/x", Address("h", "root", None, ("vmfs", "volumes", "ds", "x")), Place.DATASTORE),
        ("esxi://h/vmfs/volumes", Address("h", "root", None, ("vmfs", "volumes")), Place.HOST),
        ("esxi://h/vmfs/devices/disks", Address("h", path=("vmfs", "devices", "disks")), Place.DEVICES),
        (
            "esxi://h/vmfs/devices/disks/mpx.vmhba0:C0:T0:L0:3",
            Address("h", path=("vmfs", "devices", "disks", "mpx.vmhba0:C0:T0:L0:3")),
            Place.DEVICE,
        ),
        (
            "esxi+ssh://h:2222/vmfs/volumes/ds/a-flat.vmdk",
            Address("h", "root", 2222, ("vmfs", "volumes", "ds", "a-flat.vmdk"), ssh=True),
            Place.DEVICE,
        ),
    ],
)
def test_forms(text: str, expected: Address, place: Place) -> None:
    address = parse_address(text)
    assert address == expected
    assert address.place is place
    assert parse_address(str(address)) == address


def test_parts() -> None:
    address = parse_address("esxi://h/vmfs/volumes/store/vm/a.vmx")
    assert (address.datastore, address.file, address.service_port) == ("store", "vm/a.vmx", 443)
    device = parse_address("esxi://h/vmfs/devices/disks/naa.1:2")
    assert (device.datastore, device.remote, device.service_port) == ("", "/vmfs/devices/disks/naa.1:2", 22)


@pytest.mark.parametrize(
    "text",
    [
        "esxi://",
        "esxi://@h",
        "esxi://h:0/",
        "esxi://h:65536/",
        "esxi://h:1x/",
        "esxi://h:٣/",
        "esxi://-oProxyCommand=x/",
        "esxi://h h/",
        "esxi://[::1/",
        "esxi://[nonsense]/",
        "esxi://[fe80::1%25eth0]/",
        "esxi://[::1]x/",
        "esxi://h/ds/../x",
        "esxi://h/ds/%2e%2e/x",
        "esxi://h/ds/a%2fb",
        "esxi://h/ds/a%00b",
        "esxi://h/ds/a%0ab",
        "esxi://h/ds/%zz",
        "esxi://h/ds/%ff",
        "esxi://h/vmfs",
        "esxi://h/vmfs/devices/lvm/x",
        "esxi+ssh://h/etc/shadow",
        "esxi+ssh://h/",
        "esxi://h/" + "a" * 256,
        "esxi://h/" + "a/" * 4096,
        "http://h/",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_address(text)
    assert refused.value.code == "bad_address"
    assert refused.value.hint


@pytest.mark.parametrize("text", ["esxi://root:geheim@h/ds", "esxi://root:geh@im@h/", "esxi+ssh://:geheim@h/vmfs/x/y"])
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_address(text)
    assert refused.value.code == "password_in_address"
    assert "geh" not in str(refused.value.as_dict())
    assert "--password-file" in refused.value.hint


@given(st.text(max_size=60) | st.builds("esxi://{}".format, st.text(max_size=60)))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    with contextlib.suppress(TriuneError):
        address = parse_address(text)
        assert parse_address(str(address)) == address
    is_address(text)


@given(
    user=NAMES.filter(lambda user: ":" not in user),
    host=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses(v=6).map(str),
    port=st.none() | st.integers(1, 65535),
    path=st.lists(NAMES.filter(lambda name: name != "vmfs"), max_size=4).map(tuple),
)
def test_round_trip(user: str, host: str, port: int | None, path: tuple[str, ...]) -> None:
    address = Address(host, user, port, path)
    assert parse_address(str(address)) == address
