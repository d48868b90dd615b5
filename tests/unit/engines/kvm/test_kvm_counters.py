"""libvirt's bulk statistics in our words."""

from __future__ import annotations

from triune.engines.kvm import counters

MIB = 1024  # KiB
RUNNING = {
    "cpu.time": 2_500_000_000,
    "balloon.current": 256 * MIB,
    "balloon.maximum": 512 * MIB,
    "balloon.rss": 600 * MIB,
    "balloon.available": 240 * MIB,
    "balloon.usable": 200 * MIB,
    "balloon.unused": 150 * MIB,
    "block.count": 2,
    "block.0.rd.bytes": 10,
    "block.1.rd.bytes": 5,
    "block.0.wr.bytes": 7,
    "net.count": 1,
    "net.0.rx.bytes": 3,
    "net.0.tx.bytes": 4,
}


def test_memory_is_what_the_guest_cannot_free() -> None:
    found = counters._stats(RUNNING)
    assert found.memory_bytes == 40 << 20
    assert found.memory_limit_bytes == 256 << 20
    assert (found.cpu_time_s, found.pids) == (2.5, None)
    assert (found.disk_read_bytes, found.disk_write_bytes) == (15, 7)
    assert (found.net_rx_bytes, found.net_tx_bytes) == (3, 4)


def test_a_guest_that_tells_nothing_counts_as_what_the_host_pays_for_it() -> None:
    silent = {key: value for key, value in RUNNING.items() if key not in ("balloon.usable", "balloon.unused")}
    assert counters._stats(silent).memory_bytes == 256 << 20
    assert counters._stats({**silent, "balloon.rss": 99 * MIB}).memory_bytes == 99 << 20
    old = {key: value for key, value in RUNNING.items() if key != "balloon.usable"}
    assert counters._stats(old).memory_bytes == 90 << 20
    assert counters._stats({**RUNNING, "balloon.usable": 2**40}).memory_bytes == 256 << 20


def test_without_a_group_the_vcpus_times_are_summed() -> None:
    found = counters._stats({"vcpu.maximum": 2, "vcpu.0.time": 10**9, "vcpu.1.time": 2 * 10**9})
    assert found.cpu_time_s == 3.0
    assert found.memory_limit_bytes is None
