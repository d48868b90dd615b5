"""An engine as what is measured: instances made, used and removed through the daemon."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import Any, TypeVar

from triune.domain.errors import Failed, Invalid, NotFound, TriuneError, Unsupported
from triune.domain.instance import HOST_NETWORK
from triune.sdk import Client
from triune.sdk.operations import outcome
from triune.services.benchmarks import memory
from triune.services.benchmarks.answering import answers
from triune.services.benchmarks.catalogue import filled
from triune.services.benchmarks.subject import EMULATED, HOST, About, Output, Reached, Stored

_STOP_S = 60.0
_SETTLE_S = 1.0
# What an emulated machine may take to boot under load, where its launch cannot be cancelled any more.
_REMOVAL_S = 300.0
_MOST_OUTPUT = 4 * 2**20
_SHARE = 0.7
_TREE, _MOUNT = "tree", "/stored"
# By form: the format of a disk of its own, and the settings of the machine that decide how it is attached.
_DISKS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "qcow2": ("qcow2", {}),
    "raw": ("raw", {}),
    "scsi": ("raw", {"bus": "scsi"}),
}
_DISK, _POOL = 192 * 2**20, 3 * 2**30
_Place = TypeVar("_Place", Stored, Reached)
# The device of this many sectors: where a disk appears is the system's to choose.
_FIND_DISK = 'for disk in /sys/block/*; do [ "$(cat $disk/size)" = "$1" ] && echo /dev/${disk##*/}; done'


class InstanceSubject:
    """`engine` is its row of GET /v1/host; names of instances begin with `prefix`; `size` has cpus and memory.

    `patience` is how long anything may take to become ready, in seconds. `outside`: the host's address in a network
    outside of it, "" where there is none; `ports` are those of servers that are reached from there.
    """

    def __init__(
        self,
        client: Client,
        engine: Mapping[str, Any],
        *,
        prefix: str,
        image: str,
        size: Mapping[str, Any],
        service: Mapping[str, Any],
        patience: float,
        outside: str = "",
        ports: Sequence[int] = (),
    ) -> None:
        self._client = client
        self._engine = engine
        self._image = image
        self._size = size
        self._service = service
        self._patience = patience
        self._outside = outside
        self._ports = ports
        self._prefix = f"{prefix}-{engine['name']}"
        # Names of what was made, and the operation that makes it while that is under way.
        self._made: dict[str, str] = {}
        self._stored: dict[str, Stored | Unsupported] = {}
        self._reached: dict[str, Reached | Unsupported] = {}
        self._volumes: list[str] = []
        self._pools: list[str] = []
        self._idle_mib = 0.0
        self._template = False
        self._address = ""

    @property
    def about(self) -> About:
        """What it is; emulated, where the probe says so."""
        emulated = (self._engine.get("facts") or {}).get("accelerated") is False
        return About(
            name=str(self._engine["name"]),
            title=str(self._engine["title"]),
            what="an instance of the image on Triune's network",
            version=str(self._engine.get("version") or ""),
            label=EMULATED if emulated else "",
        )

    @property
    def address(self) -> str:
        """Of the instance that commands run in."""
        return self._address

    def open(self) -> None:
        """Launch the instance that commands run in."""
        done = self._launched(f"{self._prefix}-a", ())
        self._address = str(done["result"]["addresses"][0])

    def run(self, argv: Sequence[str], timeout: float) -> Output:
        """Run a command in it."""
        return self._run_in(f"{self._prefix}-a", argv, timeout)

    def stored(self, form: str) -> Stored:
        """An instance of its own, with a volume or a root of this form."""
        return _once(self._stored, form, self._with_storage)

    def _with_storage(self, form: str) -> Stored:
        name, where = f"{self._prefix}-{form}", f"{self._prefix}-{form}-v"
        if form == _TREE:
            self._volumes.append(where)
            self._wait(self._client.volumes.create(where, kind=_TREE))
            self._launched(name, (), volumes=[f"{where}:{_MOUNT}"])
            path = f"{_MOUNT}/stored"
        elif form in _DISKS:
            self._volumes.append(where)
            kind, settings = _DISKS[form]
            self._wait(self._client.volumes.create(where, kind="disk", format=kind, size=_DISK))
            try:
                self._launched(name, (), volumes=[where], settings=settings)
            except Invalid as error:
                if error.code != "unknown_setting":
                    raise
                raise Unsupported(
                    "no_form", f"{self.about.title}: no disks that could be attached by {form}", hint=error.hint
                ) from None
            path = self._run_in(name, ["sh", "-c", _FIND_DISK, "sh", str(_DISK // 512)], self._patience).stdout.strip()
        else:
            self._pools.append(where)
            self._wait(self._client.pools.create(where, driver=form, size=_POOL))
            self._launched(name, (), pool=where)
            path = "/stored"
        return Stored(path, lambda argv, timeout: self._run_in(name, argv, timeout))

    def reached(self, way: str) -> Reached:
        """An instance of its own, behind its bridge or on the host's network."""
        if not self._outside:
            raise Unsupported("no_line", "there is no network outside of the host", hint="Run it with sudo.")
        return _once(self._reached, way, self._on_network)

    def _on_network(self, way: str) -> Reached:
        name = f"{self._prefix}-{way}"
        if way == HOST:
            self._launched(name, (), network=HOST_NETWORK)
            return Reached(self._outside, self._outside, lambda argv, timeout: self._run_in(name, argv, timeout))
        ports = dict(zip(self._ports, _free_ports(self._outside, len(self._ports)), strict=True))
        publish = [f"{self._outside}:{port}:{inside}" for inside, port in ports.items()]
        done = self._launched(name, (), publish=publish)
        inside = str(done["result"]["addresses"][0])
        return Reached(inside, self._outside, lambda argv, timeout: self._run_in(name, argv, timeout), ports)

    def _run_in(self, name: str, argv: Sequence[str], timeout: float) -> Output:
        begun = time.monotonic()
        session = self._client.instances.exec(name, argv)
        late = threading.Timer(timeout, session.close)
        late.daemon = True
        late.start()
        said: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        try:
            session.close_stdin()
            while (piece := session.read()) is not None:
                if len(said[piece[0]]) < _MOST_OUTPUT:
                    said[piece[0]] += piece[1]
        except TriuneError:
            if late.is_alive():
                raise
            raise Failed(
                "command_timeout", f"{argv[0]} did not finish within {timeout:g} s", hint="Try it by hand."
            ) from None
        finally:
            late.cancel()
        taken = time.monotonic() - begun
        stdout, stderr = (bytes(said[stream]).decode(errors="replace") for stream in (1, 2))
        return Output(session.exit_code or 0, stdout, stderr, taken)

    def life(self, wanted: frozenset[str]) -> Mapping[str, float]:
        """Launch, ask the service, weigh, stop, start again, remove."""
        name = f"{self._prefix}-b"
        before = memory.processes()
        begun = time.monotonic()
        try:
            done = self._launched(name, filled(self._service["command"], {"bind": "0.0.0.0"}))  # noqa: S104 - inside
            found = _figures(done)
            if answers(str(done["result"]["addresses"][0]), self._service, self._patience):
                found["answering"] = time.monotonic() - begun
            if "memory" in wanted:
                self._weigh(found, name, before)
            found["stop"] = _took(self._wait(self._client.instances.stop(name, timeout=_STOP_S, force=True)))
            if "again" in wanted:
                found["again"] = _took(self._wait(self._client.instances.start(name)))
        finally:
            self._remove(name)
        if "warm" in wanted:
            self._warm(found)
        return found

    def crowd(self, count: int) -> Mapping[str, float]:
        """Launch several at once, weigh them, remove them. Raises Unsupported("no_room") where they do not fit."""
        if count > 1:
            if not self._idle_mib:
                self.crowd(1)  # how much many take is not known before one is weighed
            self._require_room(count)
        names = [f"{self._prefix}-c{number}" for number in range(count)]
        before = memory.processes()
        try:
            begun = time.monotonic()
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(lambda name: self._launched(name, ()), names))
            found = {"ready": time.monotonic() - begun}
            time.sleep(_SETTLE_S)
            paid = memory.paid(names, before)
            if paid is not None:
                found["memory"] = self._idle_mib = paid.mib / count
        finally:
            with ThreadPoolExecutor(min(8, count)) as pool:
                list(pool.map(self._remove, names))
        return found

    def close(self) -> None:
        """Remove all that was made."""
        for name in list(self._made):
            self._remove(name)
        if self._template:
            with suppress(TriuneError):
                self._client.images.cool(self._image)
        for volume in self._volumes:
            with suppress(TriuneError):
                self._wait(self._client.volumes.remove(volume))
        for pool in self._pools:
            with suppress(TriuneError):
                self._wait(self._client.pools.remove(pool))

    def _weigh(self, found: dict[str, float], name: str, before: frozenset[tuple[int, int]]) -> None:
        time.sleep(_SETTLE_S)
        paid = memory.paid([name], before)
        if paid is not None:
            found["memory"] = self._idle_mib = paid.mib

    def _warm(self, found: dict[str, float]) -> None:
        """A launch from a template, where the engine has such a thing."""
        if not (self._engine.get("facets") or {}).get("templates", {}).get("available"):
            return
        if not self._template:
            self._template = True
            self._wait(self._client.images.warm(self._image, engine=self.about.name, settings={}, **self._size))
        name = f"{self._prefix}-w"
        try:
            done = self._launched(name, (), cold=False)
            if done["result"].get("warm"):
                found["warm"] = _took(done)
        finally:
            self._remove(name)

    def _require_room(self, count: int) -> None:
        available = self._client.host().get("memory_available_bytes")
        needed = count * self._idle_mib * 2**20
        if available is not None and needed > available * _SHARE:
            raise Unsupported("no_room", f"{count} instances do not fit into the host's free memory", hint="Free some.")

    def _launched(self, name: str, command: Sequence[str], *, cold: bool = True, **more: Any) -> dict[str, Any]:
        self._made[name] = ""
        operation = self._client.instances.launch(
            name=name,
            image=self._image,
            engine=self.about.name,
            command=list(command),
            wait="ready",
            timeout=self._patience,
            cold=cold,
            **self._size,
            **more,
        )
        self._made[name] = operation["id"]
        done = self._wait(operation)
        self._made[name] = ""
        return done

    def _wait(self, operation: Any) -> dict[str, Any]:
        done = self._client.operations.wait(operation["id"], timeout=self._patience)
        outcome(done)
        return dict(done)

    def _remove(self, name: str) -> None:
        """What still makes it is cancelled first; its name is free a little later."""
        if self._made.get(name):
            with suppress(TriuneError):
                self._client.operations.cancel(self._made[name])
            with suppress(TriuneError):
                # Before it has ended there may be nothing to remove yet, and something a moment later.
                self._client.operations.wait(self._made[name], timeout=_REMOVAL_S)
        deadline = time.monotonic() + _REMOVAL_S
        while time.monotonic() < deadline:
            try:
                self._wait(self._client.instances.remove(name, force=True))
            except NotFound:
                break
            except TriuneError as error:
                if error.code == "busy":
                    time.sleep(0.2)
                    continue
            break
        self._made.pop(name, None)


def _once(made: dict[str, _Place | Unsupported], word: str, make: Callable[[str], _Place]) -> _Place:
    """What was made for this word before; what can't be is told again, and not tried again."""
    if word not in made:
        try:
            made[word] = make(word)
        except Unsupported as error:
            made[word] = error
    found = made[word]
    if isinstance(found, Unsupported):
        raise found
    return found


def _free_ports(address: str, count: int) -> list[int]:
    """Of the host, that nothing listens on."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            one.bind((address, 0))
            found.append(int(one.getsockname()[1]))
        return found


def _figures(done: Mapping[str, Any]) -> dict[str, float]:
    """From the steps of a launch: running when it begins to wait, ready when it goes on."""
    at = {step["name"]: step["time"] for step in done["steps"]}
    found = {"ready": _between(done["created"], at.get("command") or done["ended"])}
    if "ready" in at:
        found["running"] = _between(done["created"], at["ready"])
    return found


def _took(done: Mapping[str, Any]) -> float:
    return _between(done["created"], done["ended"])


def _between(begun: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
