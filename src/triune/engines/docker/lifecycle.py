"""Start, stop, pause, rename, remove."""

from __future__ import annotations

import time
from collections.abc import Callable

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError
from triune.domain.instance import State
from triune.domain.names import instance_name, single_line
from triune.domain.operation import Progress
from triune.engines.docker import ports
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described, describe, not_found, not_running, state_of

_KILL_WAIT = 20.0
_READY_LOG_LINES = 20


class Lifecycle:
    """What moves a container from state to state."""

    live = True

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def start(self, name: str, progress: Progress) -> None:
        """Start it; a paused one goes on."""
        found = describe(self._client, name)
        if _state(found) is State.PAUSED:
            self.resume(name)
            return
        if found["State"].get("Running"):
            return
        progress.step("docker-start", f"starting {name}")
        container = str(found["Id"])
        # Asked beforehand: after a start that failed by a port, Docker 29 starts the container without any network.
        if ports.wanted(found.get("HostConfig") or {}):
            self._require_ports(name, found)
        try:
            self._client.act(lambda api: api.start(container), missing=not_found(name))
        except (Failed, Invalid) as error:
            raise self._start_error(name, found, error) from error
        except NotFound as error:
            # Docker also answers 404 when the container's network or runtime binary is gone.
            describe(self._client, name)
            raise self._start_error(name, found, error) from error

    def _require_ports(self, name: str, found: Described) -> None:
        taken = ports.taken(found, self._client.read(lambda api: api.containers()))
        if taken:
            raise ports.port_taken(name, taken)

    def _start_error(self, name: str, found: Described, error: TriuneError) -> TriuneError:
        try:
            self._require_ports(name, found)  # taken meanwhile
        except Conflict as taken:
            return taken
        said = error.message
        if isinstance(error, NotFound):
            said = str(describe(self._client, name)["State"].get("Error") or error.message)
        return Failed(
            "start_failed",
            f"{name} could not be started: {said}",
            hint=f"See what it wrote with: triune logs {name}; and how it is set up with: triune show {name}",
            name=name,
        )

    def stop(self, name: str, *, timeout: float, force: bool, progress: Progress) -> None:
        """Send the image's own stop signal, wait, and kill only if `force`.

        Docker's own stop always kills in the end, so the signal is sent by itself.
        """
        found = describe(self._client, name)
        container = str(found["Id"])
        if found["State"].get("Restarting"):
            # Between two attempts there is no process; this ends the attempts.
            self._client.act(lambda api: api.stop(container, timeout=0), missing=not_found(name))
            return
        if not found["State"].get("Running"):
            return
        if timeout > 0 or not force:
            progress.step("docker-stop", f"asking {name} to stop")
            self._signal(container, str(found["Config"].get("StopSignal") or "SIGTERM"))
            if self._wait(container, lambda one: not one["State"].get("Running"), timeout, progress):
                return
        if not force:
            raise Failed(
                "stop_timeout",
                f"{name} did not stop within {timeout:g} s and still runs",
                hint=f"Give it longer with --timeout, or end it with: triune stop --force {name}",
                name=name,
            )
        progress.step("docker-kill", f"killing {name}")
        self.kill(container, name)

    def kill(self, container: str, name: str) -> None:
        """Kill it and wait until Docker has noticed. Raises Failed("kill_failed")."""
        self._signal(container, "SIGKILL")
        if not self._wait(container, lambda one: not one["State"].get("Running"), _KILL_WAIT, None):
            raise Failed(
                "kill_failed",
                f"{name} was killed, but Docker still sees it running",
                hint="A process may hang in the kernel: see dmesg, and: ps -eo pid,stat,wchan:30,args",
            )

    def _signal(self, container: str, signal: str) -> None:
        try:
            self._client.act(lambda api: api.kill(container, signal))
        except (Conflict, NotFound):
            # It ended meanwhile: what was wanted.
            return

    def _wait(
        self, container: str, done: Callable[[Described], bool], timeout: float, progress: Progress | None
    ) -> bool:
        """Poll until `done`; a container that vanished (--rm) counts as done."""
        deadline = time.monotonic() + timeout
        pause = 0.01
        while True:
            try:
                if done(self._client.read(lambda api: api.inspect_container(container))):
                    return True
            except NotFound:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if progress is not None:
                progress.check()
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.25)

    def wait_ready(self, name: str, timeout: float, progress: Progress) -> None:
        """Running, and healthy where the image has a health check; a command that has ended with 0 did its work."""
        container = str(describe(self._client, name)["Id"])
        last: list[Described] = []

        def settled(found: Described) -> bool:
            last[:] = [found]
            return _ready(found) or _ended(found)

        done = self._wait(container, settled, timeout, progress)
        if not last:
            raise not_found(name)
        if done and _ready(last[0]):
            return
        raise self._not_ready(name, last[0], timeout)

    def _not_ready(self, name: str, found: Described, timeout: float) -> Failed:
        state = found["State"]
        if _ended(found):
            said = f"{name} ended with status {state.get('ExitCode')}"
        elif state.get("Health"):
            said = f"{name} runs, but its health check says {state['Health'].get('Status')} after {timeout:g} s"
        else:
            said = f"{name} was not running after {timeout:g} s"
        container = str(found["Id"])
        try:
            log = self._client.read(
                lambda api: api.logs(container, stdout=True, stderr=True, stream=False, tail=_READY_LOG_LINES)
            ).decode(errors="replace")
        except TriuneError:
            log = ""
        return Failed(
            "not_ready",
            said,
            hint=f"See what it wrote with: triune logs {name}",
            name=name,
            exit_code=state.get("ExitCode"),
            log=log.splitlines(),
        )

    def pause(self, name: str) -> None:
        """Freeze all its processes. Pausing a paused one does nothing."""
        found = describe(self._client, name)
        if _state(found) is State.PAUSED:
            return
        if _state(found) is not State.RUNNING:
            raise not_running(name, _state(found))
        container = str(found["Id"])
        self._client.act(lambda api: api.pause(container), missing=not_found(name))

    def resume(self, name: str) -> None:
        """Let them go on. Resuming a running one does nothing."""
        found = describe(self._client, name)
        if _state(found) is State.RUNNING:
            return
        if _state(found) is not State.PAUSED:
            raise not_running(name, _state(found))
        container = str(found["Id"])
        self._client.act(lambda api: api.unpause(container), missing=not_found(name))

    def rename(self, name: str, new: str) -> None:
        """Rename it, running or not. Its host name inside stays until it is made anew."""
        instance_name(new)
        container = str(describe(self._client, name)["Id"])
        if name == new:
            return
        try:
            self._client.act(lambda api: api.rename(container, new), missing=not_found(name))
        except Conflict as error:
            raise exists(new) from error

    def require_free(self, name: str) -> None:
        """Raise Conflict("instance_exists") where a container has this name."""
        try:
            describe(self._client, name)
        except NotFound:
            return
        raise exists(name)

    def delete(self, name: str) -> None:
        """Remove it and its anonymous volumes, killing it first. Gone: succeed."""
        single_line(name, "the name")
        try:
            container = str(describe(self._client, name)["Id"])
        except NotFound:
            return
        try:
            self._client.act(lambda api: api.remove_container(container, v=True, force=True))
        except NotFound:
            return
        except Conflict:
            # Another removal of it is under way.
            if not self._wait(container, lambda _: False, _KILL_WAIT, None):
                raise


def exists(name: str) -> Conflict:
    """The error for a name that is taken."""
    return Conflict(
        "instance_exists",
        f"there is an app container {name!r} already",
        hint=f"Choose another name, or remove it with: triune rm {name}",
        name=name,
    )


def _state(found: Described) -> State:
    return state_of(str(found["State"].get("Status", "")))


def _ready(found: Described) -> bool:
    state = found["State"]
    if state.get("Status") == "exited":
        return bool(state.get("ExitCode") == 0)
    if state.get("Status") != "running":
        return False
    health = (state.get("Health") or {}).get("Status", "none")
    return health in ("none", "healthy")


def _ended(found: Described) -> bool:
    return found["State"].get("Status") in ("exited", "dead", "created")
