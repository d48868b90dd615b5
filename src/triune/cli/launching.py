"""What `triune launch` does, apart from Click: a launch of a container takes no longer than the import of Click.

`parse` understands the plain forms of the command line; everything else, errors too, is Click's.
"""

from __future__ import annotations

import sys
from time import monotonic

from triune.cli.pairs import pairs
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.errors import Invalid
from triune.domain.units import format_duration, parse_cpus, parse_duration, parse_size
from triune.sdk.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROFILES = (None, "hardened")
WAITS = ("ready", "running", "none")
PATIENCE = 180.0

_MOST_USER_DATA = 2**20
_ONE = {
    "--engine": "engine", "--cpus": "cpus", "--memory": "memory", "--disk": "disk", "--network": "network",
    "--pool": "pool", "--wait": "wait", "--timeout": "timeout", "--profile": "profile", "--runtime": "runtime",
}  # fmt: skip
_MANY = {
    "--publish": "publish", "-p": "publish", "--volume": "volume", "-v": "volume", "--env": "env", "-e": "env",
    "--set": "settings", "-s": "settings",
}  # fmt: skip
_FLAGS = {
    "--no-start": "no_start", "--cold": "cold", "--detach": "detach", "-d": "detach", "--quiet": "quiet", "-q": "quiet",
}  # fmt: skip


def lean(arguments: list[str]) -> int | None:
    """Run `launch` for arguments it understands; None for any other, which Click then explains."""
    given = parse(arguments)
    if given is None:
        return None
    launch(given.pop("image"), given.pop("name"), quiet=given.pop("quiet"), **given)
    return 0


def parse(arguments: list[str]) -> dict[str, Any] | None:
    """The options as Click would give them, with `image` and `name`; None where it takes Click to tell."""
    given: dict[str, Any] = dict.fromkeys(_ONE.values()) | {key: [] for key in _MANY.values()}
    given |= dict.fromkeys(_FLAGS.values(), False) | {"engine": "auto", "wait": "ready", "timeout": PATIENCE}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if not word.startswith("-"):
            words.append(word)
            continue
        option, equals, value = word.partition("=")
        if option in _FLAGS and not equals:
            given[_FLAGS[option]] = True
            continue
        if not equals or not option.startswith("--"):
            if option != word or not rest:
                return None
            value = rest.pop(0)
        if option in _ONE:
            given[_ONE[option]] = value
        elif option in _MANY:
            given[_MANY[option]].append(value)
        else:
            return None
    if len(words) < 2 or given["wait"] not in WAITS or given["profile"] not in PROFILES:
        return None
    given["image"], given["name"], *given["command"] = words
    try:
        given["timeout"] = parse_duration(str(given["timeout"]))
    except Invalid:
        return None
    return given


def launch(image: str, name: str, *, detach: bool, quiet: bool, **given: Any) -> None:
    """Ask for the instance, and follow the operation unless `detach`."""
    begun = monotonic()
    wanted = request(given, detach)
    client = Client()
    operation = client.instances.launch(name=name, image=image, **wanted)
    if wanted["wait"] == "none":
        print(operation["id"])
        return
    result = finish(client, operation, name, quiet=quiet)
    if quiet:
        return
    if result.get("chosen"):
        print(clean(f"chose {result['chosen']}"), file=sys.stderr)
    took = format_duration(monotonic() - begun)
    where = ", ".join(result["addresses"])
    how = "warm, " if result.get("warm") else ""
    did = "is made" if given["no_start"] else "is running"
    print(
        clean(
            f"{name} {did}{f' at {where}' if where and not given['no_start'] else ''} ({result['engine']}, {how}{took})"
        )
    )


def request(given: dict[str, Any], detach: bool) -> dict[str, Any]:
    """The body of the API's launch, from the options. Raises Invalid."""
    settings = pairs(given["settings"], "--set")
    user_data = settings.pop("user-data", None)
    if given["runtime"] is not None:
        settings.setdefault("runtime", given["runtime"])
    network = given["network"]
    return {
        "engine": given["engine"],
        "pool": given["pool"],
        "cpus": None if given["cpus"] is None else parse_cpus(given["cpus"]),
        "memory": None if given["memory"] is None else parse_size(given["memory"]),
        "disk": None if given["disk"] is None else parse_size(given["disk"]),
        "network": "" if network is None else None if network == "none" else network,
        "publish": list(given["publish"]),
        "volumes": [_volume(text) for text in given["volume"]],
        "env": pairs(given["env"], "--env"),
        "command": list(given["command"]),
        "settings": settings,
        "user_data": None if user_data is None else _read(user_data),
        "wait": "none" if detach else given["wait"],
        "timeout": given["timeout"],
        "start": not given["no_start"],
        "cold": given["cold"],
        "profile": given["profile"] or "",
    }


def _volume(text: str) -> str:
    """A relative folder is the client's: made absolute, as the daemon runs elsewhere."""
    if not text.startswith((".", "~")):
        return text
    from pathlib import Path

    source, colon, rest = text.partition(":")
    return f"{Path(source).expanduser().absolute()}{colon}{rest}"


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is a costly import
            data = file.read(_MOST_USER_DATA + 1)
        if len(data) > _MOST_USER_DATA:
            raise Invalid("user_data_too_large", f"{path} is larger than 1 MiB", hint="Make the user data smaller.")
        return data.decode()
    except OSError as error:
        raise Invalid("bad_user_data", f"can't read {path}: {error.strerror}", hint="Name a readable file.") from None
    except UnicodeDecodeError:
        raise Invalid("bad_user_data", f"{path} is not UTF-8 text", hint="Name a cloud-config file.") from None
