"""Linux capabilities by name, as capabilities(7) numbers them."""

from __future__ import annotations

from collections.abc import Iterable

# linux/capability.h, in order of their numbers.
NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
ALL = frozenset(NAMES)


def name(number: int) -> str:
    """The name of a number, or `capability N` for one that is newer than this table."""
    return NAMES[number] if number < len(NAMES) else f"capability {number}"


def of_mask(mask: int, last: int = len(NAMES) - 1) -> frozenset[str]:
    """The names of the bits up to `last` that are set, as /proc/PID/status shows them."""
    return frozenset(name(bit) for bit in range(last + 1) if mask >> bit & 1)


def plain(words: Iterable[str]) -> frozenset[str]:
    """Names however they are written: `CAP_SYS_ADMIN`, `SYS_ADMIN`, `sys_admin`; ALL is all of them."""
    found = {word.strip().lower().removeprefix("cap_") for word in words}
    return frozenset(ALL | found - {"all"}) if "all" in found else frozenset(found)
