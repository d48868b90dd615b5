"""Trials of `density` on this host, through the daemon: measuring what instances cost, and filling the host."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triune.cli.problems import warn
from triune.cli.progress import Progress
from triune.domain.errors import Denied, NotFound, TriuneError, Unsupported
from triune.sdk import Client
from triune.sdk.operations import outcome

if TYPE_CHECKING:
    from types import FrameType

    from triune.services.placement.figures import Figures
    from triune.services.placement.trial import Bounds, Filled

FOLDER = "density"
_PATIENCE = 300
_CANCEL = 60.0
_IDLE = ("sleep", "infinity")


class OnDaemon:
    """Starts and removes instances of one image through the daemon; see `trial.Starter`."""

    def __init__(self, client: Client, image: str, host: Mapping[str, Any]) -> None:
        self.client, self.image = client, image
        # An app container's one process; a system has its own.
        self._apps = {one["name"] for one in host["engines"] if one["facets"].get("oci", {}).get("available")}

    def start(self, name: str, engine: str) -> None:
        """Launch and wait; cancelled where the wait ends otherwise."""
        command = list(_IDLE) if engine in self._apps else []
        operation = None
        try:
            with _deferred():  # an answer that is lost would leave a launch that nobody cancels
                operation = self.client.instances.launch(
                    name=name, image=self.image, engine=engine, command=command, timeout=_PATIENCE
                )
            outcome(self.client.operations.wait(operation["id"]))
        except BaseException:
            if operation is not None:
                self._cancel(operation["id"])
            raise

    def _cancel(self, operation: str) -> None:
        with contextlib.suppress(TriuneError):  # it has ended, or can't be cancelled any more: wait for it
            self.client.operations.cancel(operation)
        self.client.operations.wait(operation, timeout=_CANCEL)

    def remove(self, name: str) -> None:
        """Remove it; gone: succeed."""
        try:
            operation = self.client.instances.remove(name, force=True)
        except NotFound:
            return
        outcome(self.client.operations.wait(operation["id"]))

    def names(self) -> Sequence[str]:
        """Of all instances."""
        return [row["name"] for row in self.client.instances.list()[0]]

    def facts(self, name: str) -> Mapping[str, Any]:
        """What `trial` asks of one."""
        detail, stats = self.client.instances.get(name), self.client.instances.stats(name)
        return {
            "accelerated": detail["accelerated"],
            "disk": detail["disk_used_bytes"],
            "cpu_time": stats[0]["cpu_time_s"],
        }


def starter(host: Mapping[str, Any], image: str) -> OnDaemon:
    """Raises Denied or Unsupported where processes of instances can't be seen from here, NotFound without the image."""
    if os.geteuid() != 0:
        raise Denied(
            "needs_root",
            "only root sees what the processes of instances cost",
            hint="Run it again with sudo; figures measured once are used for everybody.",
        )
    if host.get("hostname") != platform.node():
        raise Unsupported(
            "other_host", f"the daemon runs on {host.get('hostname')}, not here", hint="Run this command there."
        )
    client = Client()
    client.images.get(image)
    signal.signal(signal.SIGTERM, _interrupt)
    return OnDaemon(client, image, host)


@contextlib.contextmanager
def _deferred() -> Iterator[None]:
    """Interrupts come at its end."""
    seen: list[int] = []
    kept = {
        number: signal.signal(number, lambda number, _: seen.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if seen:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def available(host: Mapping[str, Any]) -> list[str]:
    """Engines that run here."""
    return [str(one["name"]) for one in host["engines"] if one["available"]]


def measure(host: Mapping[str, Any], image: str, count: int, engines: Sequence[str]) -> Path:
    """Measure each engine, keep the figures, return their file. An engine that fails is told and left out."""
    from triune.services.placement.figures import keep
    from triune.services.placement.trial import figure

    tried, found = starter(host, image), {}
    with Progress() as progress:
        for engine in engines:
            try:
                found[engine] = figure(tried, engine, count, lambda text: progress.update("measure", text))
            except TriuneError as error:
                progress.print(f"{engine} is not measured: {error.message}")
    if not found:
        raise Unsupported("nothing_measured", "no engine could be measured", hint="See why: triune doctor")
    facts = {
        **{key: host[key] for key in ("hostname", "kernel", "architecture", "cpus", "memory_bytes", "version")},
        "load": os.getloadavg()[0],
        "image": image,
        "engines": {one["name"]: {"version": one["version"], **one["facts"]} for one in host["engines"]},
    }
    if os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1):
        warn(f"the host is busy (load {os.getloadavg()[0]:.1f}): CPU figures are of a busy host")
    return keep(Path(host["data"]) / FOLDER, found, datetime.now(UTC).isoformat(timespec="seconds"), facts, count)


def fill(host: Mapping[str, Any], image: str, order: Sequence[str], bounds: Bounds) -> Filled:
    """Fill this host within bounds."""
    from triune.services.placement import trial

    tried = starter(host, image)
    with Progress() as progress:
        return trial.fill(tried, order, bounds, lambda text: progress.update("fill", text), memory_available)


def memory_available() -> int:
    """Bytes this host could still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def order_of(mix: Mapping[str, int], most: int) -> list[str]:
    """Engines in an order that keeps a mix's proportions at every moment."""
    total, found, counts = sum(mix.values()), [], dict.fromkeys(mix, 0)
    for number in range(1, min(most, total) + 1):
        engine = max(mix, key=lambda name: number * mix[name] / total - counts[name])
        counts[engine] += 1
        found.append(engine)
    return found


def predicted(known: Figures, order: Sequence[str], bounds: Bounds) -> tuple[int, int]:
    """How many instances are running when the fill ends by count or memory, and their memory."""
    seen: set[str] = set()
    memory = 0
    for number in range(bounds.most):
        engine = order[number % len(order)]
        figure = known.engines[engine]
        memory += figure.memory_each + (figure.memory_first if engine not in seen else 0)
        seen.add(engine)
        if memory >= bounds.memory:
            return number + 1, memory
    return bounds.most, memory
