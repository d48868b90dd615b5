"""`kill -9` of the daemon at every step of launch and delete: nothing half-made is left, for each engine."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.live.daemon import CACHE, Daemon
from tests.live.system_fixtures import ENGINES, IMAGE, built_image
from tests.live.traces import traces
from tests.patience import PATIENCE

pytestmark = [pytest.mark.live, pytest.mark.net]

PREFIX = "tcrash-"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CACHE / "data") as daemon:
        built_image(daemon)
        daemon.remove_all(PREFIX)
        yield daemon
        daemon.kill()
        daemon.start()
        daemon.remove_all(PREFIX)
        daemon.stop()


def crash_points(daemon: Daemon, name: str, kind: str) -> list[str]:
    """The steps that the newest operation of this kind went through, as crash points."""
    (operation,) = [op for op in daemon.json("ops", "list") if op["kind"] == kind and op["resource"].endswith(name)][:1]
    return [f"{kind}:{step['name']}" for step in operation["steps"]]


# A volume does not show whose it is: nobody else may make any meanwhile.
ALONE = {"docker": [pytest.mark.alone]}
PARAMS = [pytest.param(engine, marks=[getattr(pytest.mark, engine), *ALONE.get(engine, [])]) for engine in ENGINES]


@pytest.mark.parametrize("engine", PARAMS)
def test_killed_at_every_step_of_launch_and_delete(daemon: Daemon, engine: str) -> None:
    name = f"{PREFIX}{engine}"
    launch = ("launch", IMAGE, name, "--engine", engine, "--wait", "running", "--publish", "18980:80")
    daemon.run("rm", name, "--yes", "--force", check=False)
    # Once before anything is compared: an engine's first instance makes folders that all of them share and that stay.
    daemon.run(*launch)
    daemon.run("rm", name, "--yes", "--force")
    volumes = engine in ALONE
    clean = traces(daemon, PREFIX, volumes=volumes)
    daemon.run(*launch)
    # What is to be seen of it while it runs must be seen here, or its absence afterwards would prove nothing.
    running = traces(daemon, PREFIX, volumes=volumes)
    assert running["hosts"]
    assert running["names"]
    assert running["ports"] > clean["ports"]
    assert name in running["domains"] | running["containers"] | running["docker"]
    daemon.run("rm", name, "--yes", "--force")
    settled(daemon, clean, "nothing", volumes)
    launching = [
        "launch:intend-instance",
        *crash_points(daemon, name, "launch"),
        "launch:before-keep",
        "launch:after-keep",
    ]
    deleting = ["delete:intend-instance", *crash_points(daemon, name, "delete")]
    assert {"launch:create", "launch:start", "launch:network"} <= set(launching)
    assert {"delete:delete", "delete:release"} <= set(deleting)

    for point in launching:
        crash(daemon, point, *launch)
        if point == "launch:after-keep":
            assert daemon.names()[name]["state"] == "running"
            daemon.run("rm", name, "--yes", "--force")
        settled(daemon, clean, point, volumes)

    for point in deleting:
        daemon.run(*launch)
        crash(daemon, point, "rm", name, "--yes", "--force")
        settled(daemon, clean, point, volumes)


def crash(daemon: Daemon, point: str, *command: str) -> None:
    """Run the command against a daemon that dies at this point, then start it again as usual."""
    daemon.crash(point)
    failed = daemon.run(*command, check=False)
    daemon.died()
    assert failed.returncode != 0, f"{point}: the client did not notice"
    daemon.start()


def settled(daemon: Daemon, clean: dict[str, set[str]], point: str, volumes: bool) -> None:
    """Compare with the clean host, giving the kernel a moment to let go of devices."""
    deadline = time.monotonic() + PATIENCE
    while (found := traces(daemon, PREFIX, volumes=volumes)) != clean and time.monotonic() < deadline:
        time.sleep(0.2)
    left = {kind: sorted(found[kind] ^ clean[kind]) for kind in clean if found[kind] != clean[kind]}
    assert not left, f"after a crash at {point}: {left}"
    assert not [name for name in daemon.names() if name.startswith(PREFIX)], point
