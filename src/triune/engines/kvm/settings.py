"""The engine's own settings (`--set KEY=VALUE`): declared once, checked, with the nearest known key for a wrong one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from triune.domain.errors import Invalid
from triune.domain.names import single_line

# key → (allowed values, what it is); None: checked by a pattern below
KNOWN: Mapping[str, tuple[tuple[str, ...] | None, str]] = {
    "firmware": (("bios", "uefi"), "what boots a disk that has no kernel beside it"),
    "machine": (("q35", "pc"), "the emulated board"),
    "cpu": (None, "maximum, host-passthrough, host-model or a model's name like EPYC"),
    "bus": (("virtio", "sata", "scsi"), "how the disk is attached"),
    "graphics": (("vnc", "none"), "a VNC display on 127.0.0.1"),
    "devices": (("normal", "minimal"), "minimal: without a display and a balloon"),
    "autostart": (("true", "false"), "start with the host"),
}
_ELSEWHERE = frozenset({"user-data"})  # taken out by the service that reads the file
_CPU_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one virtual machine; None: as the image or the host suggests."""

    firmware: str | None = None
    machine: str = "q35"
    cpu: str | None = None
    bus: str = "virtio"
    graphics: str | None = None
    minimal: bool = False
    autostart: bool = False


def parse(given: Mapping[str, str]) -> Settings:
    """Check and take the settings. Raises Invalid("unknown_setting" | "bad_setting")."""
    values = {key: value for key, value in given.items() if key not in _ELSEWHERE}
    for key, value in values.items():
        _check(key, value)
    return Settings(
        firmware=values.get("firmware"),
        machine=values.get("machine", "q35"),
        cpu=values.get("cpu"),
        bus=values.get("bus", "virtio"),
        graphics=values.get("graphics"),
        minimal=values.get("devices") == "minimal",
        autostart=values.get("autostart") == "true",
    )


def _check(key: str, value: str) -> None:
    single_line(key, "a setting's name")
    single_line(value, f"the setting {key!r}")
    if key not in KNOWN:
        if key == "runtime":
            raise Invalid(
                "unknown_setting",
                "a virtual machine has no runtime to choose",
                hint="Other runtimes are for app containers: launch it with --engine docker.",
                key=key,
            )
        near = difflib.get_close_matches(key, KNOWN, n=1, cutoff=0.5)
        raise Invalid(
            "unknown_setting",
            f"{key!r} is not a setting of a virtual machine",
            hint=f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(KNOWN))}",
            key=key,
        )
    allowed, meaning = KNOWN[key]
    if (allowed is None and not _CPU_MODEL.fullmatch(value)) or (allowed is not None and value not in allowed):
        raise Invalid(
            "bad_setting",
            f"{value!r} is not a value for {key}: {meaning}",
            hint=f"Use one of: {', '.join(allowed)}" if allowed else f"Use {meaning}.",
            key=key,
        )
