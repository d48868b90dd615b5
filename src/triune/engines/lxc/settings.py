"""The settings a launch may give a system container with `--set KEY=VALUE`, and what they mean."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from triune.domain.errors import Invalid
from triune.domain.limits import FIELDS
from triune.domain.names import single_line

KNOWN: Mapping[str, str] = {
    "privileged": "true: no user namespace; root inside is root of the host",
    "nesting": "true: containers inside (Docker, LXC) may run",
    "idmap": "shared (default) or isolated: an id range of its own",
    "autostart": "true: start at boot, by lxc.service",
    "confinement": "normal (default) or strict: fewer capabilities and system calls, no new privileges, no nesting",
    "apparmor": "generated (default where the kernel has AppArmor), unconfined, or a profile's name",
}

_RUNTIME = "Other runtimes are for app containers: launch it with --engine docker."
_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Parsed settings; `apparmor` None means the default for this host."""

    privileged: bool = False
    nesting: bool = False
    isolated: bool = False
    autostart: bool = False
    strict: bool = False
    apparmor: str | None = None


def parse(given: Mapping[str, str]) -> Settings:
    """Read settings. Raises Invalid("unknown_setting") with the nearest known one, or Invalid("bad_setting")."""
    for key in given:
        if key not in KNOWN:
            near = difflib.get_close_matches(key, [*KNOWN, *FIELDS], n=1)
            known = f"Known ones: {', '.join(KNOWN)}."
            raise Invalid(
                "unknown_setting",
                f"a system container has no setting {key!r}",
                hint=_RUNTIME if key == "runtime" else f"Did you mean {near[0]!r}? {known}" if near else known,
            )
    settings = Settings(
        privileged=_flag(given, "privileged"),
        nesting=_flag(given, "nesting"),
        isolated=_choice(given, "idmap", ("shared", "isolated")) == "isolated",
        autostart=_flag(given, "autostart"),
        strict=_choice(given, "confinement", ("normal", "strict")) == "strict",
        apparmor=_apparmor(given),
    )
    if settings.privileged and settings.isolated:
        raise Invalid(
            "bad_setting",
            "a privileged container has no id range that could be isolated",
            hint="Leave out privileged=true or idmap=isolated.",
        )
    if settings.strict and settings.nesting:
        raise Invalid(
            "bad_setting",
            "strict confinement leaves no room for containers inside",
            hint="Leave out nesting=true, or set confinement=normal.",
        )
    return settings


def _flag(given: Mapping[str, str], key: str) -> bool:
    value = given.get(key, "false").lower()
    if value not in _TRUE + _FALSE:
        raise _bad(key, given[key])
    return value in _TRUE


def _choice(given: Mapping[str, str], key: str, choices: tuple[str, ...]) -> str:
    value = given.get(key, choices[0])
    if value not in choices:
        raise _bad(key, value)
    return value


def _apparmor(given: Mapping[str, str]) -> str | None:
    value = given.get("apparmor")
    if value is not None and (not value or " " in single_line(value, "The setting apparmor")):
        raise _bad("apparmor", value)
    return value


def _bad(key: str, value: str) -> Invalid:
    return Invalid("bad_setting", f"{value!r} is not a value for the setting {key!r}", hint=f"{key}: {KNOWN[key]}.")
