"""Isolation of simulated instances: what an ordinary one of its kind would have; the setting `audit=weak` is none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from triune.domain import capabilities, seccomp
from triune.domain.image import FormKind
from triune.domain.isolation import Component, Exposure, HostMount, Isolation

if TYPE_CHECKING:
    from triune.engines.fake.engine import FakeEngine

_KEPT = frozenset({"chown", "setuid", "setgid"})
# What runs "inside" runs on the host as nobody, who may do these there.
_OPEN = frozenset({"keyctl", "unshare"})


class FakeAuditing:
    """The facet."""

    hardened: Mapping[str, str] = {"audit": "strong"}
    hardened_limits: Mapping[str, str] = {"pids": "512"}

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def isolation(self, name: str) -> Isolation:
        """As its setting says."""
        with self._engine.reading():
            one = self._engine.find(name)
            own = self._engine.form_kind is FormKind.DISK
            weak, strong = (one.settings.get("audit") == word for word in ("weak", "strong"))
            kept = capabilities.ALL if weak else _KEPT
            return Isolation(
                running=one.state != "stopped",
                own_kernel=own,
                boundary="own kernel (simulated)" if own else "namespaces (simulated)",
                accelerated=own or None,
                runtime="simulated",
                privileged=weak,
                user_namespace=not weak,
                capabilities=None if own else kept,
                filtered=not weak,
                calls_blocked=None if own else frozenset() if weak else seccomp.reference_blocked(kept) - _OPEN,
                label="simulated",
                no_new_privileges=strong,
                read_only_root=strong,
                proc_guarded=not weak,
                root_inside=not strong,
                nesting=weak,
                mounts=(HostMount(source="/", target="/host", read_only=False, kind="folder"),) if weak else (),
                ports=tuple(one.ports),
                process_user="nobody" if own else None,
                memory_limited=one.memory is not None,
                image=one.image,
                image_created=datetime(2026, 1, 1, tzinfo=UTC),
                image_origin="simulated",
            )

    def exposure(self) -> Exposure:
        """A program without holes."""
        with self._engine.reading():
            return Exposure(components=(Component(name="simulator", version="1.0"),))
