"""Reading the kernel's view of the network."""

from __future__ import annotations

from pathlib import Path

from triune.host import net

ARP = """\
IP address       HW type     Flags       HW address            Mask     Device
10.87.59.161     0x1         0x2         02:59:c1:fa:4a:3f     *        triune0
10.87.59.162     0x1         0x0         00:00:00:00:00:00     *        triune0
10.87.59.163     0x1         0x6         02:59:c1:fa:4a:40     *        triune0
192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        eth0
"""


def test_neighbours_are_those_met_on_this_bridge(tmp_path: Path) -> None:
    table = tmp_path / "arp"
    table.write_text(ARP)
    met = {"10.87.59.161": "02:59:c1:fa:4a:3f", "10.87.59.163": "02:59:c1:fa:4a:40"}
    assert net.neighbours("triune0", table) == met
    assert net.neighbours("other0", table) == {}


def test_the_kernels_own_table_can_be_read() -> None:
    assert isinstance(net.neighbours("no-such-bridge"), dict)
