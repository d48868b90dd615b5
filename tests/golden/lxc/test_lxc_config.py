"""A plan in, LXC configuration out.

To renew the files after a wanted change: TRIUNE_UPDATE_GOLDEN=1 pytest tests/golden/lxc
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from triune.domain.image import TreeForm
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.limits import Limits
from triune.domain.network import Network, Nic
from triune.engines.base import LaunchPlan
from triune.engines.lxc import settings, spec
from triune.host.idmap import IdRange

NETWORK = Network(name="triune0", bridge="triune0", subnet="10.87.0.0/24", gateway="10.87.0.1", domain="triune")
NIC = Nic(network=NETWORK, mac="02:00:0a:57:00:05", address="10.87.0.5")
FOLDER = Path("/var/lib/lxc/web")
HOST = spec.HostFacts(
    cgroups={"memory": 2, "cpu": 2, "cpuset": 2, "pids": 2, "blkio": 2},
    apparmor=True,
    folder=FOLDER,
    python=Path("/opt/my tools/python"),
    architecture="x86_64",
)
FULL: dict[str, Any] = {
    "cpus": 1.5,
    "memory": 512 << 20,
    "env": {"B": "2 = two", "A": "#1"},
    "volumes": (
        VolumeMount(source="/srv/my data", target="/data"),
        VolumeMount(source="/srv/#ro", target="/in/ro dir/", read_only=True),
    ),
    "settings": {"autostart": "true", "nesting": "true"},
    "limits": Limits(pids=500, swap=0, cpu_weight=50, cpu_pin="0-1", io_read=1 << 20),
}


def plan(**given: Any) -> LaunchPlan:
    return LaunchPlan(
        spec=InstanceSpec(name="web", image="debian/12", engine="lxc", **given),
        form=TreeForm(path=Path("/tree")),
        image="debian/12",
        created=datetime(2025, 1, 1, tzinfo=UTC),
        nics=(NIC,),
    )


CASES = {
    "unprivileged": (plan(), IdRange(1000000), HOST),
    "full": (plan(**FULL), IdRange(1000000), HOST),
    "full-cgroup1": (plan(**FULL), IdRange(1000000), replace(HOST, cgroups=dict.fromkeys(HOST.cgroups, 1))),
    "strict": (plan(settings={"confinement": "strict", "idmap": "isolated"}), IdRange(1065536), HOST),
    "privileged": (plan(settings={"privileged": "true"}, volumes=FULL["volumes"]), None, HOST),
    "no-apparmor-own-init": (
        replace(plan(), form=TreeForm(path=Path("/tree"), init="/usr/bin/myinit"), nics=()),
        IdRange(1065536),
        replace(HOST, apparmor=False),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_configuration(case: str) -> None:
    given, ids, host = CASES[case]
    text = spec.serialise(spec.config_items(given, settings.parse(given.spec.settings), ids, host))
    golden = Path(__file__).with_name(f"{case}.conf")
    if os.environ.get("TRIUNE_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
