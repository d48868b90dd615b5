"""The settings of an app container (`--set KEY=VALUE`), and what each becomes in Docker's own configuration."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from triune.domain.errors import Invalid
from triune.domain.limits import FIELDS
from triune.domain.names import single_line
from triune.domain.units import parse_size

_RESTART = re.compile(r"no|always|unless-stopped|on-failure(?::(\d{1,6}))?", re.ASCII)
_CAPABILITY = re.compile(r"[A-Z][A-Z0-9_]{1,62}", re.ASCII)
_RUNTIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_SIGNAL = re.compile(r"(?:SIG)?[A-Z0-9+-]{1,16}", re.ASCII)
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})

# Where a setting lands: ("host", key) in HostConfig, ("config", key) in the container's own configuration.
Place = tuple[str, str]


def _bad(key: str, value: str, expected: str) -> Invalid:
    return Invalid("bad_setting", f"{value!r} is no value for the setting {key}", hint=f"Give {expected}.", setting=key)


def _boolean(key: str, value: str) -> bool:
    word = value.lower()
    if word not in _TRUE | _FALSE:
        raise _bad(key, value, "true or false")
    return word in _TRUE


def _text(key: str, value: str) -> str:
    if not value:
        raise _bad(key, value, "a value")
    return value


def _restart(key: str, value: str) -> dict[str, Any]:
    match = _RESTART.fullmatch(value)
    if not match:
        raise _bad(key, value, "no, on-failure, on-failure:TIMES, always or unless-stopped")
    return {"Name": value.partition(":")[0], "MaximumRetryCount": int(match.group(1) or 0)}


def _capabilities(key: str, value: str) -> list[str]:
    names = [name.strip().upper() for name in value.split(",")]
    if not all(_CAPABILITY.fullmatch(name) for name in names):
        raise _bad(key, value, "capabilities like NET_ADMIN,SYS_TIME")
    return names


def _runtime(key: str, value: str) -> str:
    if not _RUNTIME.fullmatch(value):
        raise _bad(key, value, "the name of a runtime that Docker knows, like runc or runsc")
    return value


def _tmpfs(key: str, value: str) -> dict[str, str]:
    paths = [path.strip() for path in value.split(",")]
    if not all(path.startswith("/") and ":" not in path for path in paths):
        raise _bad(key, value, "absolute paths, like /run,/tmp")
    return dict.fromkeys(paths, "")


def _path(key: str, value: str) -> str:
    if not value.startswith("/"):
        raise _bad(key, value, "an absolute path")
    return value


def _words(key: str, value: str) -> list[str]:
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if not words:
        raise _bad(key, value, "a command line; quote words as in a shell")
    return words


def _signal(key: str, value: str) -> str:
    if not _SIGNAL.fullmatch(value.upper()):
        raise _bad(key, value, "a signal, like SIGTERM or SIGRTMIN+3")
    return value.upper()


def _count(key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 2**31 - 1):
        raise _bad(key, value, "a whole number from 1")
    return int(value)


def _size(key: str, value: str) -> int:
    del key
    return parse_size(value)


def _no_new_privileges(key: str, value: str) -> list[str]:
    return ["no-new-privileges"] if _boolean(key, value) else []


def _cgroupns(key: str, value: str) -> str:
    if value not in ("private", "host"):
        raise _bad(key, value, "private or host")
    return value


_KNOWN: Mapping[str, tuple[Place, Callable[[str, str], Any]]] = {
    "cap-add": (("host", "CapAdd"), _capabilities),
    "cap-drop": (("host", "CapDrop"), _capabilities),
    "cgroupns": (("host", "CgroupnsMode"), _cgroupns),
    "entrypoint": (("config", "Entrypoint"), _words),
    "init": (("host", "Init"), _boolean),
    "no-new-privileges": (("host", "SecurityOpt"), _no_new_privileges),
    "pids-limit": (("host", "PidsLimit"), _count),
    "privileged": (("host", "Privileged"), _boolean),
    "read-only": (("host", "ReadonlyRootfs"), _boolean),
    "restart": (("host", "RestartPolicy"), _restart),
    "runtime": (("host", "Runtime"), _runtime),
    "shm-size": (("host", "ShmSize"), _size),
    "stdin": (("config", "OpenStdin"), _boolean),
    "stop-signal": (("config", "StopSignal"), _signal),
    "tmpfs": (("host", "Tmpfs"), _tmpfs),
    "tty": (("config", "Tty"), _boolean),
    "user": (("config", "User"), _text),
    "workdir": (("config", "WorkingDir"), _path),
}
NAMES = tuple(sorted(_KNOWN))


def parse(settings: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (parts of the container's configuration, parts of its HostConfig).

    Raises Invalid: "unknown_setting" naming the nearest known one, or "bad_setting".
    """
    config: dict[str, Any] = {}
    host: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _KNOWN:
            raise _unknown(key)
        (part, name), read = _KNOWN[key]
        (host if part == "host" else config)[name] = read(key, single_line(value, f"the setting {key}"))
    return config, host


def _unknown(key: str) -> Invalid:
    near = difflib.get_close_matches(key, [*NAMES, *FIELDS], n=1, cutoff=0.5)
    return Invalid(
        "unknown_setting",
        f"app containers have no setting {key!r}",
        hint=f"Did you mean {near[0]}?" if near else f"There are: {', '.join(NAMES)}.",
        setting=key,
    )
