"""What lies beside a backup's data says the same when it is read back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.limits import Limits
from triune.domain.network import Publish
from triune.engines.archiving import PartKind
from triune.host.staging.pieces import PIECE
from triune.services.backups.manifest import Manifest, StoredPart, parse, spec_of

SPEC = InstanceSpec(
    name="web",
    image="debian/12",
    engine="kvm",
    cpus=1.5,
    memory=2**29,
    network="triune0",
    publish=(Publish(host_port=8080, guest_port=80),),
    volumes=(VolumeMount(source="/srv", target="/srv"),),
    env={"A": "b"},
    command=("sleep", "1"),
    limits=Limits(pids=7),
)


def manifest(*parts: StoredPart) -> Manifest:
    return Manifest(
        instance="web",
        engine="kvm",
        image="debian/12",
        state="running",
        created="2026-11-21T14:35:23+00:00",
        consistency="agent",
        described={"any": ["thing"]},
        spec=json.loads(json.dumps(asdict(SPEC))),
        parts=parts,
    )


@given(st.dictionaries(st.integers(0, 999), st.integers(1, 5).map(lambda n: n * 10**15)))
def test_pieces_come_back(times: dict[int, int]) -> None:
    disk = StoredPart(kind=PartKind.DISK, name="disk0", size=1000 * PIECE, times=times)
    whole = manifest(disk, StoredPart(kind=PartKind.TREE, name="root"))
    assert parse(whole.text().encode(), "x") == whole


def test_the_spec_comes_back_under_a_new_name() -> None:
    found = spec_of(manifest().spec, name="web2", engine="kvm", image="debian/12")
    assert found == replace(SPEC, name="web2")


def test_unknown_fields_of_a_newer_spec_are_left_out() -> None:
    found = spec_of({**manifest().spec, "colour": "blue"}, name="web2", engine="kvm", image="debian/12")
    assert found == replace(SPEC, name="web2")


def change(**changes: Any) -> bytes:
    return json.dumps({**json.loads(manifest().text()), **changes}).encode()


def disk(**changes: Any) -> dict[str, Any]:
    return {"kind": "disk", "name": "d", "size": PIECE, "digest": "", "piece": PIECE, "runs": [], **changes}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        change(format=99),
        change(parts=[disk(piece=4096)]),
        change(parts=[disk(runs=[[1, 0, 2]])]),
        change(parts=[disk(runs=[[1, -1, 1]])]),
        change(parts=[disk(size=-1)]),
        change(parts=[{"kind": "tree", "name": "../etc", "size": None, "digest": ""}]),
        change(parts=[{"kind": "cat", "name": "a", "size": None, "digest": ""}]),
    ],
)
def test_what_makes_no_sense_is_refused(text: bytes) -> None:
    with pytest.raises(Failed, match="the description in the backup x"):
        parse(text, "x")
