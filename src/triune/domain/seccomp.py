"""Which system calls a container's filter takes away: the reference that every instance is compared with.

The reference are the calls that the filter of Docker Engine takes away unless a capability gives them back, as its
manual lists them (docs.docker.com/engine/security/seccomp, "Significant syscalls blocked by the default profile") and
its profile has them (github.com/moby/moby, profiles/seccomp/default.json).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

# call: the capability that gives it back; "" for none.
REFERENCE: Mapping[str, str] = {
    "acct": "sys_pacct",
    "add_key": "",
    "bpf": "sys_admin",
    "clock_settime": "sys_time",
    "delete_module": "sys_module",
    "fanotify_init": "sys_admin",
    "finit_module": "sys_module",
    "fsconfig": "sys_admin",
    "fsmount": "sys_admin",
    "fsopen": "sys_admin",
    "fspick": "sys_admin",
    "init_module": "sys_module",
    "ioperm": "sys_rawio",
    "iopl": "sys_rawio",
    "kcmp": "sys_ptrace",
    "kexec_file_load": "sys_boot",
    "kexec_load": "sys_boot",
    "keyctl": "",
    "lookup_dcookie": "sys_admin",
    "mbind": "sys_nice",
    "mount": "sys_admin",
    "mount_setattr": "sys_admin",
    "move_mount": "sys_admin",
    "move_pages": "sys_nice",
    "nfsservctl": "",
    "open_by_handle_at": "dac_read_search",
    "open_tree": "sys_admin",
    "perf_event_open": "sys_admin",
    "pivot_root": "",
    "quotactl": "sys_admin",
    "reboot": "sys_boot",
    "request_key": "",
    "set_mempolicy": "sys_nice",
    "setns": "sys_admin",
    "settimeofday": "sys_time",
    "swapoff": "",
    "swapon": "",
    "sysfs": "",
    "syslog": "syslog",
    "umount2": "sys_admin",
    "unshare": "sys_admin",
    "uselib": "",
    "userfaultfd": "",
    "ustat": "",
    "vhangup": "sys_tty_config",
}


def reference_blocked(capabilities: Collection[str]) -> frozenset[str]:
    """The calls that the reference takes from a container which keeps these capabilities."""
    return frozenset(call for call, needed in REFERENCE.items() if not needed or needed not in capabilities)


def blocked(profile: Mapping[str, object]) -> frozenset[str]:
    """Of the reference's calls, those that a filter in Docker's own JSON form takes away.

    A rule that holds only for some capabilities, architectures or arguments counts as taking it away where the default
    action does. Raises ValueError for what is no such filter.
    """
    action, rules = profile.get("defaultAction"), profile.get("syscalls")
    if not isinstance(action, str) or not isinstance(rules, list):
        raise ValueError("no defaultAction and syscalls")
    open_by_default = action in _OPEN
    changed = {name for rule in rules for name in _names(rule, wanted=not open_by_default)}
    calls = frozenset(REFERENCE)
    return calls & changed if open_by_default else calls - changed


_OPEN = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG"})


def _names(rule: object, *, wanted: bool) -> list[str]:
    """The calls of a rule that allows (`wanted`) or takes away, without conditions."""
    if not isinstance(rule, dict) or (rule.get("action") in _OPEN) is not wanted:
        return []
    conditions = rule.get("args") or rule.get("includes") or (rule.get("excludes") and not wanted)
    names = rule.get("names") or ([rule["name"]] if "name" in rule else [])
    return [] if conditions or not isinstance(names, list) else [str(name) for name in names]


def blocked_by_list(text: str) -> frozenset[str]:
    """The same of a filter in LXC's form (lxc.container.conf(5), "Seccomp configuration"), version 1 or 2.

    Raises ValueError for what is no such filter.
    """
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) < 2 or lines[0] not in ("1", "2"):
        raise ValueError("no version")
    kind, *default = lines[1].split()
    if kind not in ("denylist", "blacklist", "allowlist", "whitelist"):
        raise ValueError(f"no list: {kind}")
    calls = frozenset(REFERENCE)
    rules = [line.split() for line in lines[2:] if not line.startswith("[")]
    if kind in ("denylist", "blacklist"):
        del default
        return calls & {words[0] for words in rules if "allow" not in words[1:] and len(words) < 5}
    return calls - {words[0] for words in rules if len(words) == 1 or "allow" in words[1:]}
