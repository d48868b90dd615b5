"""The nftables table, against a checked-in one. TRIUNE_GOLDEN=write writes it anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

from triune.domain.network import Network, parse_publish
from triune.host import nft
from triune.services.networks import ruleset

GOLDEN = Path(__file__).with_name("ruleset.json")
NETWORKS = [
    Network(name="triune0", bridge="triune0", subnet="10.87.0.0/16", gateway="10.87.0.1", domain="triune.internal"),
    Network(name="lab", bridge="lab", subnet="192.168.87.0/24", gateway="192.168.87.1", domain="lab.internal"),
]
PUBLISHED = [
    ("10.87.0.10", parse_publish("8080:80")),
    ("10.87.0.10", parse_publish("5353:53/udp")),
    ("10.87.0.11", parse_publish("127.0.0.1:9000:90")),
    ("10.87.0.12", parse_publish("192.0.2.2:443:8443")),
]


def test_ruleset() -> None:
    made = nft.transaction("triune", ruleset.build(NETWORKS, PUBLISHED))
    if os.environ.get("TRIUNE_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(GOLDEN.read_text())
