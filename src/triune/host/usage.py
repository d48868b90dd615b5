"""What a container uses: counters of its control group and of its network namespace."""

from __future__ import annotations

from pathlib import Path

from triune.domain.instance import Stats
from triune.host.cgroup import Group


def of(pid: int, group: Group) -> Stats:
    """Counters of a group, and of the network that this process of it sees. Raises OSError when that is gone."""
    received, sent = network_bytes(Path(f"/proc/{pid}/net/dev").read_text())
    read, written = group.disk_bytes()
    return Stats(
        cpu_time_s=group.cpu_seconds(),
        memory_bytes=group.memory_bytes(),
        memory_limit_bytes=group.memory_limit(),
        disk_read_bytes=read,
        disk_write_bytes=written,
        net_rx_bytes=received,
        net_tx_bytes=sent,
        pids=group.pids(),
    )


def network_bytes(text: str) -> tuple[int, int]:
    """Received and sent bytes of all cards but the loopback, from /proc/PID/net/dev (proc_net(5))."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        card, colon, numbers = line.partition(":")
        words = numbers.split()
        if colon and card.strip() != "lo" and len(words) >= 9:
            received += int(words[0])
            sent += int(words[8])
    return received, sent
