"""Namespaces, the id ranges that unprivileged containers are mapped to, and what containers see of the host."""

from __future__ import annotations

from collections.abc import Sequence

from triune.domain.finding import Finding
from triune.host.idmap import subordinate_range
from triune.host.lxcfs import ENABLE, FOLDER, blind
from triune.host.probe.view import Facts, View, missing, ok, warning

AREA = "namespaces"
_NEEDED = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
RANGE_NEEDED = 65536


def probe(view: View) -> Sequence[Finding]:
    """Kernel namespaces, the switches that restrict user namespaces, root's id ranges, lxcfs."""
    return [_kinds(view), _user(view), _ranges(view), _seen(view)]


def _kinds(view: View) -> Finding:
    present = [name for name in view.files.names("/proc/self/ns") if not name.endswith("_for_children")]
    lacking = [name for name in _NEEDED if name not in present]
    if lacking:
        sentence = f"The kernel lacks these namespaces: {', '.join(lacking)}; containers cannot be kept apart by them."
        return missing("namespaces.kinds", AREA, sentence, present=present, lacking=lacking)
    return ok("namespaces.kinds", AREA, f"The kernel has the namespaces {', '.join(present)}.", present=present)


def _user(view: View) -> Finding:
    limit = view.files.number("/proc/sys/user/max_user_namespaces")
    clone = view.files.number("/proc/sys/kernel/unprivileged_userns_clone")
    apparmor = view.files.number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    facts: Facts = {
        "user.max_user_namespaces": limit,
        "kernel.unprivileged_userns_clone": clone,
        "kernel.apparmor_restrict_unprivileged_userns": apparmor,
    }
    if limit == 0:
        sentence = (
            "User namespaces are switched off (user.max_user_namespaces is 0): unprivileged containers cannot start."
        )
        fix = "echo 'user.max_user_namespaces = 65536' | tee /etc/sysctl.d/60-triune-userns.conf | sysctl -p -"
        return missing("namespaces.user", AREA, sentence, fix, **facts)
    if clone == 0:
        sentence = "Only root may make user namespaces: fine for instances, but none can be nested by plain users."
        fix = "echo 'kernel.unprivileged_userns_clone = 1' | tee /etc/sysctl.d/60-triune-userns.conf | sysctl -p -"
        return warning("namespaces.user", AREA, sentence, fix, optional=True, **facts)
    if apparmor == 1:
        sentence = (
            "User namespaces work for root; AppArmor keeps them from plain users' programs, which instances don't need."
        )
        return ok("namespaces.user", AREA, sentence, **facts)
    return ok("namespaces.user", AREA, f"User namespaces are allowed, up to {limit or 'an unknown number'}.", **facts)


def _ranges(view: View) -> Finding:
    ids = subordinate_range("root", view.files.path("/etc"))
    if ids is None or ids.count < RANGE_NEEDED:
        sentence = (
            f"Root has no range of {RANGE_NEEDED} ids in /etc/subuid and /etc/subgid for unprivileged containers."
        )
        return missing("namespaces.subids", AREA, sentence, "triune setup", start=None, count=0)
    sentence = f"Root may map {ids.count} ids from {ids.base} on for unprivileged containers."
    return ok("namespaces.subids", AREA, sentence, start=ids.base, count=ids.count)


def _seen(view: View) -> Finding:
    if any(f" {FOLDER} " in line for line in view.files.lines("/proc/self/mountinfo")):
        if (pid := blind(view.files.root)) is not None:
            sentence = (
                f"System containers see the host's CPUs in place of their limit: lxcfs (process {pid}) was started "
                f"without {ENABLE}. Setup restarts it when no container uses it."
            )
            return warning("namespaces.lxcfs", AREA, sentence, "triune setup", optional=True)
        return ok("namespaces.lxcfs", AREA, "System containers see their limits as CPUs and memory (lxcfs).")
    sentence = "System containers see the host's CPUs and memory in place of their limits: lxcfs does not run."
    return warning("namespaces.lxcfs", AREA, sentence, "triune setup", optional=True)
