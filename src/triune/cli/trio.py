"""The demo's three instances: made side by side, each serving a page, each fetching the others' by name."""

from __future__ import annotations

import contextlib
import html
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triune.cli.parallel import at_once
from triune.cli.progress import Progress
from triune.domain.errors import Conflict, Failed, NotFound, TriuneError
from triune.sdk import Client
from triune.sdk.operations import outcome

IMAGE = "debian/12"
# The instance's name and its engine.
TRIO: Mapping[str, str] = {"demo-kvm": "kvm", "demo-lxc": "lxc", "demo-docker": "docker"}
HOST = "host"

_SERVE = "mkdir -p /srv/www && exec busybox httpd -f -p 80 -h /srv/www"
_SERVE_AGAIN = "mkdir -p /srv/www && busybox httpd -p 80 -h /srv/www"
_WRITE = "mkdir -p /srv/www && cat > /srv/www/index.html"
_PATIENCE = 20.0
_PAUSE = 0.2
_LAUNCH_PATIENCE = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each: `details` of those that serve, `errors` of the others, by name."""

    details: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, TriuneError]


def build(client: Client, progress: Progress) -> bool:
    """Build the image unless it is there; returns whether it was built."""
    try:
        client.images.get(IMAGE)
    except NotFound:
        operation = client.images.build(IMAGE)
        outcome(client.operations.wait(operation["id"], progress=progress.of(IMAGE)))
        progress.done(IMAGE)
        return True
    return False


def bring_up(client: Client, progress: Progress) -> Outcome:
    """Make or start all three at once, and let each serve its page."""
    details: dict[str, Mapping[str, Any]] = {}
    errors: dict[str, TriuneError] = {}

    def one(name: str) -> None:
        try:
            _ensure(client, name, progress)
            progress.update(name, "serving its page")
            _serve(client, name)
            details[name] = client.instances.get(name)
            progress.print(f"{name} serves its page")
        except TriuneError as error:
            errors[name] = error
        progress.done(name)

    at_once(list(TRIO), one)
    return Outcome({name: details[name] for name in TRIO if name in details}, errors)


def _ensure(client: Client, name: str, progress: Progress) -> None:
    """Running, whatever it was before."""
    try:
        found = client.instances.get(name)
    except NotFound:
        operation = client.instances.launch(
            name=name, image=IMAGE, engine=TRIO[name], command=["sh", "-c", _SERVE], timeout=_LAUNCH_PATIENCE
        )
    else:
        if found["engine"] != TRIO[name] or found["origin"] != "managed":
            raise Conflict(
                "demo_name_taken",
                f"{name} exists already, and is not the demo's",
                hint=f"Rename it: triune rename {name} NEW",
            )
        if found["state"] == "running":
            return
        operation = client.instances.resume(name) if found["state"] == "paused" else client.instances.start(name)
    outcome(client.operations.wait(operation["id"], progress=progress.of(name)))


def _serve(client: Client, name: str) -> None:
    page = f"<!doctype html><title>{name}</title><p>{html.escape(page_text(name))}</p>\n"
    _retried(lambda: _run(client, name, ["sh", "-c", _WRITE], page.encode()))
    _retried(lambda: _own_page(client, name))


def _own_page(client: Client, name: str) -> str:
    try:
        return fetch(client, name, "127.0.0.1")
    except TriuneError:
        # If it was stopped since its launch, what its system started for the launch is gone with that. Where the
        # server is only about to listen, this one ends because the port is taken.
        with contextlib.suppress(TriuneError):
            _run(client, name, ["sh", "-c", _SERVE_AGAIN], b"")
        raise


def page_text(name: str) -> str:
    """What the page says."""
    return f"Hello from {name}, an instance of {TRIO[name]}."


def fetch_all(client: Client, names: Sequence[str]) -> Mapping[tuple[str, str], str]:
    """Fetch each page from each instance and from the host, by name: "" where it came, else why not."""
    pairs = [(source, target) for source in (*names, HOST) for target in names]

    def one(pair: tuple[str, str]) -> str:
        source, target = pair
        try:
            text = _retried(lambda: _from_host(target) if source == HOST else fetch(client, source, target))
        except TriuneError as error:
            return error.message
        return "" if page_text(target) in html.unescape(text) else "another page came"

    return dict(zip(pairs, at_once(pairs, one, limit=6), strict=True))


def fetch(client: Client, source: str, target: str) -> str:
    """The page of a host name, fetched inside an instance. Raises Failed."""
    # Not by wget's own -T: Debian 12's busybox ends with a segmentation fault there.
    return _run(client, source, ["timeout", "5", "busybox", "wget", "-qO-", f"http://{target}/"], b"")


def _from_host(target: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{target}/", timeout=5) as reply:
            return str(reply.read(65536).decode(errors="replace"))
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise Failed(
            "fetch_failed",
            f"the host can't fetch http://{target}/: {reason}",
            hint="See what blocks it: triune doctor",
        ) from None


def _run(client: Client, name: str, argv: Sequence[str], stdin: bytes) -> str:
    """Run a command inside and return its output. Raises Failed where it ends with another code than 0."""
    session = client.instances.exec(name, argv)
    if stdin:
        session.write(stdin)
    session.close_stdin()
    said: dict[int, bytes] = {1: b"", 2: b""}
    while (found := session.read()) is not None:
        said[found[0]] = (said[found[0]] + found[1])[-65536:]
    if session.exit_code:
        told = said[2].decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise Failed(
            "demo_command_failed",
            f"{argv[0]} in {name} ended with {session.exit_code}: {told[0]}",
            hint="See what blocks it: triune doctor",
        )
    return said[1].decode(errors="replace")


def _retried(action: Callable[[], str]) -> str:
    """The result, given some time to come."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return action()
        except TriuneError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)
