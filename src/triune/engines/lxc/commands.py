"""Commands inside a running container, by `lxc-attach`.

It joins every namespace, control group and restriction of the container. It runs as a process of its own: the
binding's attach would fork this threaded one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from triune.domain.errors import Conflict, Invalid
from triune.domain.instance import State
from triune.domain.names import single_line
from triune.engines.base import Command, Session
from triune.engines.lxc.client import Client
from triune.engines.lxc.session import with_pipes, with_terminal
from triune.host import sealed
from triune.host.beneath import Root

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Read by the loader, the C library or lxc-attach itself: these go in by argument, not through its environment.
_LOADED = ("LD_", "LXC_", "GLIBC_", "MALLOC_")
_READ = frozenset({"PATH", "HOME", "TERM", "LC_ALL", "GCONV_PATH", "LOCPATH", "NLSPATH", "TMPDIR", "RES_OPTIONS"})
# $1 is the folder, the rest the command; 126 as a shell says "can't be run".
_CHANGE_FOLDER = 'cd -- "$1" || exit 126; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class User:
    """An account inside: ids as the guest numbers them."""

    uid: int
    gid: int
    name: str = ""
    home: str = "/"
    shell: str = "/bin/sh"


ROOT = User(0, 0, "root", "/root")


class LxcCommands:
    """The `commands` facet."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def open(self, name: str, command: Command) -> Session:
        """Start it. Raises NotFound, Conflict("instance_not_running", "instance_paused"), Invalid."""
        pid = self._client.require_running(name)
        if self._client.state(name) is State.PAUSED:
            raise Conflict("instance_paused", f"{name} is paused", hint=f"Let it go on: triune resume {name}")
        _require_no_nul(command)
        try:
            with Root(f"/proc/{pid}/root") as root:
                user = find_user(_file(root, "etc/passwd"), _file(root, "etc/group"), command.user)
        except OSError:
            raise Conflict(
                "instance_not_running", f"{name} is not running", hint=f"Start it: triune start {name}"
            ) from None
        argv, env = attach_argv(self._client, name, command, user)
        argv[0] = sealed.executable(argv[0])
        if command.terminal:
            return with_terminal(argv, env, command.terminal)
        return with_pipes(argv, env)


def _file(root: Root, path: str) -> str:
    try:
        return root.read_bytes(path).decode(errors="replace")
    except OSError:
        return ""


def _require_no_nul(command: Command) -> None:
    words = [*command.argv, *command.env.keys(), *command.env.values(), command.cwd or "", command.user or ""]
    if any("\0" in word for word in words):
        raise Invalid("control_character", "a command holds a NUL character", hint="Remove it.")


def attach_argv(client: Client, name: str, command: Command, user: User) -> tuple[list[str], dict[str, str]]:
    """The argument list of lxc-attach and the environment to run it with.

    Variables travel in the environment, where other users of the host cannot read them.
    """
    argv = ["lxc-attach", "-P", str(client.path), "-n", name, "--clear-env"]
    if user.uid or user.gid:
        argv += ["-u", str(user.uid), "-g", str(user.gid)]
    passed: dict[str, str] = {}
    for key, value in _environment(command, user).items():
        if key in _READ or key.startswith(_LOADED):
            argv += ["-v", f"{key}={value}"]
        else:
            passed[key] = value
            argv += ["--keep-var", key]
    return [*argv, "--", *_inner(command, user)], passed


def _environment(command: Command, user: User) -> Mapping[str, str]:
    env = {"PATH": PATH, "HOME": user.home}
    if user.name:
        env |= {"USER": user.name, "LOGNAME": user.name}
    if command.terminal:
        env["TERM"] = command.terminal.term
    for key, value in command.env.items():
        if not key or "=" in key:
            raise Invalid(
                "bad_variable", f"{key!r} is not the name of an environment variable", hint="Write it as KEY=VALUE."
            )
        env[single_line(key, "A variable's name")] = value
    return env


def _inner(command: Command, user: User) -> list[str]:
    words = list(command.argv) or [user.shell, "-l"]
    folder = command.cwd or (None if command.argv else user.home)
    return ["/bin/sh", "-c", _CHANGE_FOLDER, "sh", folder, *words] if folder else words


def find_user(passwd: str, group: str, wanted: str | None) -> User:
    """An account by `name`, `uid`, `name:group` or `uid:gid`, of the guest's own files. Raises Invalid("no_such_user").

    passwd(5): name:password:uid:gid:comment:home:shell.
    """
    account, _, group_name = (wanted or "0").partition(":")
    user = _account(passwd, account)
    if user is None and account.isascii() and account.isdigit() and len(account) < 10:
        user = ROOT if int(account) == 0 else User(int(account), int(account))
    if user is None:
        raise Invalid("no_such_user", f"there is no user {account!r} inside", hint="Give a name or a number it has.")
    if not group_name:
        return user
    gid = _group(group, group_name)
    return User(user.uid, gid, user.name, user.home, user.shell)


def _account(passwd: str, account: str) -> User | None:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) < 7 or not (_is_id(fields[2]) and _is_id(fields[3])):
            continue
        if account in (fields[0], fields[2]):
            home = fields[5] if fields[5].startswith("/") else "/"
            shell = fields[6] if fields[6].startswith("/") else "/bin/sh"
            return User(int(fields[2]), int(fields[3]), fields[0], os.path.normpath(home), shell)
    return None


def _group(group: str, wanted: str) -> int:
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and _is_id(fields[2]) and wanted in (fields[0], fields[2]):
            return int(fields[2])
    if _is_id(wanted):
        return int(wanted)
    raise Invalid("no_such_group", f"there is no group {wanted!r} inside", hint="Give a name or a number it has.")


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:12]) < 2**32 - 1
