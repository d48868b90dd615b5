"""What an engine can't do with pools and volumes is refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.engines.docker.test_docker_spec import body, plan

from triune.domain.errors import Unsupported
from triune.domain.instance import VolumeMount
from triune.domain.pool import PoolDriver, PoolPlace
from triune.engines.lxc import spec

DISK = VolumeMount(source="/pool/disks/data.raw", target="", volume="data", format="raw")


def test_containers_take_no_disks() -> None:
    for refused in (lambda: body(plan(volumes=(DISK,))), lambda: spec.binds([DISK])):
        with pytest.raises(Unsupported) as caught:
            refused()
        assert caught.value.code == "disk_volume"
        assert "data" in caught.value.message


def test_docker_has_its_own_place() -> None:
    place = PoolPlace(name="fast", driver=PoolDriver.DIR, path=Path("/pool"))
    with pytest.raises(Unsupported) as caught:
        body(replace(plan(), pool=place))
    assert caught.value.code == "pool_unsupported"


def test_mount_entries_are_added_and_taken_away_alone() -> None:
    text = "# by hand\nlxc.uts.name = web\nlxc.mount.entry = /a b none bind 0 0\n"
    entry = "/x y none bind,create=dir 0 0"
    longer = spec.with_mount(text, entry)
    assert longer == f"{text}lxc.mount.entry = {entry}\n"
    assert spec.without_mount(longer, entry) == text == spec.without_mount(text, entry)
