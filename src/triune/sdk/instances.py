"""Instances: everything the daemon can do with them."""

from __future__ import annotations

import os

from triune.sdk.http import ProtocolError
from triune.sdk.inventory import inventory
from triune.sdk.transport import Transport, segment, target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from triune.sdk.http import Response
    from triune.sdk.session import Session
    from triune.sdk.types import (
        EngineProblem,
        FileStat,
        InstanceDetail,
        InstanceRow,
        OperationRow,
        StatsRow,
        StatsSample,
    )

_FILES = 600.0  # seconds without a byte: a busy guest may need long for the next


class Instances:
    """VMs, system containers and app containers. What changes something returns the operation that does it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, filter_text: str | None = None) -> tuple[list[InstanceRow], list[EngineProblem]]:
        """All instances by name, and the engines that could not be read; filter like `engine=lxc,state=running`."""
        return inventory(self._transport, filter_text)

    def get(self, name: str) -> InstanceDetail:
        """Everything known of one. Raises NotFound."""
        found: InstanceDetail = self._transport.call("GET", _path(name))
        return found

    def launch(self, *, idempotency_key: str | None = None, **request: Any) -> OperationRow:
        """Create, start and wait for an instance.

        `request` are the fields of `POST /v1/instances`: `name`, `image`, `engine` ("auto"), `cpus`, `memory`, `disk`
        (bytes, or text like "512MiB"), `network` (None: no network; "host": the host's own), `publish` (["8080:80"]),
        `volumes` (["data:/srv"]), `env`, `command`, `settings`, `limits` ({"io.read": "50MiB/s"}), `user_data`, `wait`
        (ready | running | none), `timeout` (seconds), `start`, `cold` (boot it, even where a template is ready),
        `profile` ("hardened"). The key makes repeating safe; a new one is made for each call.
        """
        key = idempotency_key or os.urandom(16).hex()
        return self._change("POST", "/v1/instances", request, {"Idempotency-Key": key})

    def start(self, name: str, *, wait: str = "running", timeout: float = 180) -> OperationRow:
        """Start it; with `wait` "ready" the operation ends once it is ready for work, or fails after `timeout` s."""
        return self._change("POST", _path(name, "start"), {"wait": wait, "timeout": timeout})

    def stop(self, name: str, *, timeout: float = 30, force: bool = False) -> OperationRow:
        """Ask it to shut down; after `timeout` seconds kill it if `force`, else fail with stop_timeout."""
        return self._change("POST", _path(name, "stop"), {"timeout": timeout, "force": force})

    def restart(self, name: str, *, timeout: float = 30, force: bool = False) -> OperationRow:
        """Stop and start it."""
        return self._change("POST", _path(name, "restart"), {"timeout": timeout, "force": force})

    def pause(self, name: str) -> OperationRow:
        """Freeze it."""
        return self._change("POST", _path(name, "pause"))

    def resume(self, name: str) -> OperationRow:
        """Thaw it."""
        return self._change("POST", _path(name, "resume"))

    def rename(self, name: str, new: str) -> OperationRow:
        """Give it another name."""
        return self._change("POST", _path(name, "rename"), {"name": new})

    def set_limits(self, name: str, limits: Mapping[str, float | str | None]) -> OperationRow:
        """Change what it may use; keys and values as in `triune set`, None lifts a limit, the others stay.

        The operation's result has `limits` (all of them), `now` and `later`: the keys that act at once, or from its
        next start.
        """
        return self._change("PATCH", _path(name), {"limits": dict(limits)})

    def clone(self, name: str, new: str, *, snapshot: str | None = None, start: bool = False) -> OperationRow:
        """Copy it under another name and identity, as it is now or was at a snapshot; stopped unless `start`."""
        return self._change("POST", _path(name, "clone"), {"name": new, "snapshot": snapshot, "start": start})

    def remove(self, name: str, *, force: bool = False, adopted: bool = False) -> OperationRow:
        """Remove it with its disks; `force` if it runs, `adopted` if Triune did not make it."""
        return self._change("DELETE", target(_path(name), force=force, adopted=adopted))

    def stats(self, name: str | None = None) -> Sequence[StatsRow]:
        """Counters of one, or of every running instance."""
        if name is not None:
            return [self._transport.call("GET", _path(name, "stats"))]
        return self.sample()["items"]

    def sample(self) -> StatsSample:
        """Counters of every running instance, and when they were read: two of them give rates."""
        found: StatsSample = self._transport.call("GET", "/v1/stats")
        return found

    def file_stat(self, name: str, path: str) -> FileStat:
        """What is at a path inside: `{path, kind, size, mode, mtime, target, folder}`. Raises NotFound."""
        found: FileStat = self._transport.call("GET", target(_path(name, "files/stat"), path=path), timeout=_FILES)
        return found

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """A tar stream of what is at a path inside; `/.` at its end means a folder's contents.

        Its names are what the instance says: unpack it with care (Python's `tarfile` with filter="data").
        """
        response = self._transport.open("GET", target(_path(name, "files"), path=path), timeout=_FILES)
        return _pieces(response, f"the files of {name}")

    def write_files(self, name: str, path: str, tar: Iterable[bytes]) -> None:
        """Unpack a tar stream into the folder at a path inside, with the owners it names."""
        where = target(_path(name, "files"), path=path)
        headers = {"Content-Type": "application/x-tar"}
        self._transport.open("PUT", where, body=tar, headers=headers, timeout=_FILES).close()

    def logs(self, name: str, *, tail: int | None = None, follow: bool = False) -> Iterator[bytes]:
        """What it wrote, in pieces as they come; `follow` goes on for ever."""
        where = target(_path(name, "logs"), tail=tail, follow=follow or None)
        response = self._transport.open("GET", where, timeout=None if follow else 60)
        return _pieces(response, f"the logs of {name}")

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        terminal: tuple[str, int, int] | None = None,
    ) -> Session:
        """Run a command in it; an empty `argv` is the login shell. `terminal` is (TERM, columns, rows)."""
        from triune.sdk.session import connect

        command = {
            "argv": list(argv),
            "env": dict(env or {}),
            "user": user,
            "cwd": cwd,
            "terminal": _terminal(terminal),
        }
        return connect(self._transport, _path(name, "exec"), command)

    def console(self, name: str, terminal: tuple[str, int, int] = ("xterm-256color", 80, 24)) -> Session:
        """Attach to its console; closing the session detaches."""
        from triune.sdk.session import connect

        return connect(self._transport, _path(name, "console"), {"terminal": _terminal(terminal)})

    def _change(
        self, method: str, where: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> OperationRow:
        found: OperationRow = self._transport.call(method, where, body, headers=headers)
        return found


def _pieces(response: Response, what: str) -> Iterator[bytes]:
    """The body of a response as it comes. Raises Unreachable where it breaks off."""
    from triune.domain.errors import Unreachable

    try:
        yield from response.chunks()
    except (OSError, ProtocolError) as error:
        raise Unreachable(
            "stream_broke_off",
            f"{what} broke off: {error}",
            hint="See whether its engine and the daemon run: triune list",
        ) from None
    finally:
        response.close()


def _path(name: str, action: str = "") -> str:
    return f"/v1/instances/{segment(name)}" + (f"/{action}" if action else "")


def _terminal(terminal: tuple[str, int, int] | None) -> dict[str, object] | None:
    return None if terminal is None else {"term": terminal[0], "columns": terminal[1], "rows": terminal[2]}
