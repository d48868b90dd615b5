"""What confines instances beside namespaces: seccomp, AppArmor, SELinux."""

from __future__ import annotations

from collections.abc import Sequence

from triune.domain.finding import Finding
from triune.host.probe.view import Facts, View, missing, ok, warning

AREA = "security"


def probe(view: View) -> Sequence[Finding]:
    """Seccomp filters and the mandatory access control in force."""
    return [_seccomp(view), _apparmor(view), *_selinux(view)]


def _seccomp(view: View) -> Finding:
    actions = (view.files.text("/proc/sys/kernel/seccomp/actions_avail") or "").split()
    if not actions:
        sentence = "The kernel has no seccomp filters: containers may make every system call."
        return missing("security.seccomp", AREA, sentence, actions=actions)
    notify = "with" if "user_notif" in actions else "without"
    return ok("security.seccomp", AREA, f"Seccomp filters work, {notify} user notification.", actions=actions)


def _apparmor(view: View) -> Finding:
    enabled = (view.files.text("/sys/module/apparmor/parameters/enabled") or "").strip() == "Y"
    facts: Facts = {"enabled": enabled, "parser": view.tools.find("apparmor_parser") is not None}
    if not enabled:
        sentence = (
            "AppArmor is not in this kernel: instances are confined by namespaces, capabilities and seccomp alone."
        )
        if _selinux(view):
            sentence = "AppArmor is not in use; SELinux is."
        return missing("security.apparmor", AREA, sentence, optional=True, **facts)
    if not facts["parser"]:
        sentence = "AppArmor is on, but apparmor_parser is not installed: profiles of instances cannot be loaded."
        fix = "apt-get install -y --no-install-recommends apparmor"
        return warning("security.apparmor", AREA, sentence, fix, **facts)
    return ok("security.apparmor", AREA, "AppArmor is on and confines instances.", **facts)


def _selinux(view: View) -> Sequence[Finding]:
    """Nothing where there is none: Debian and Ubuntu come without it."""
    enforcing = view.files.number("/sys/fs/selinux/enforce")
    if enforcing is None:
        return []
    if enforcing:
        sentence = "SELinux is enforcing; Triune is tried with AppArmor only, so look for denials with ausearch -m avc."
        return [warning("security.selinux", AREA, sentence, enforcing=True)]
    return [ok("security.selinux", AREA, "SELinux is permissive.", enforcing=False)]
