"""Programs that run containers in runc's place: which the engine knows, and how to get those it doesn't."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from triune.domain.errors import Unsupported

# What people say, and the names under which it is registered.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "kata": ("kata", "kata-runtime", "io.containerd.kata.v2"),
    "runsc": ("runsc", "gvisor"),
}
_HINTS: Mapping[str, str] = {
    "kata": "Install Kata Containers (https://katacontainers.io), which needs KVM, and name it in "
    "/etc/docker/daemon.json under runtimes; then: systemctl reload docker",
    "runsc": 'Run: apt-get install runsc, add {"runtimes": {"runsc": {"path": "/usr/bin/runsc"}}} to '
    "/etc/docker/daemon.json; then: systemctl reload docker",
}


def known(wanted: str, there: Collection[str] | None) -> str:
    """The name under which the engine knows a runtime; `there` None: nobody asked, so as it is said.

    Raises Unsupported("runtime_missing") with how to get it.
    """
    if there is None:
        return wanted
    names = _NAMES.get(wanted, (wanted,))
    found = next((name for name in names if name in there), None)
    if found is None:
        have = ", ".join(sorted(there)) or "none"
        raise Unsupported(
            "runtime_missing",
            f"Docker here does not know the runtime {wanted!r}; it has {have}",
            hint=_HINTS.get(wanted, "Name it in /etc/docker/daemon.json under runtimes; then: systemctl reload docker"),
            runtime=wanted,
        )
    return found
