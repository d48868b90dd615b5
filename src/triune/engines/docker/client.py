"""Talks to one Docker engine: the SDK for finished requests, raw connections for streams, our errors for both.

Requests that only read get a short time-out; when it passes, the engine is asked for a sign of life, so that a
hung engine is told from a busy one within two seconds. Requests that change something ask for the sign of life
first, unless there was an answer a moment ago, and may then take their time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from triune.domain.errors import Conflict, Denied, Failed, Invalid, NotFound, TriuneError, Unreachable, Unsupported
from triune.engines.docker.stream import RawStream

if TYPE_CHECKING:
    from docker import APIClient
    from docker.errors import APIError

T = TypeVar("T")
# The SDK's APIClient, whose stubs leave half of its calls untyped.
Api = Any

SCHEME = "unix://"
# The newest API this code was written for (Docker 27 has it); 1.44 is the oldest that Docker 29 accepts.
NEWEST_API = (1, 46)
OLDEST_API = (1, 41)
_QUICK = 1.0
_SIGN_OF_LIFE = 0.6
_FRESH = 0.25  # seconds for which an answer is a sign of life
_PATIENT = 30.0
_LONG = 600.0
_SILENCE = 3.0  # seconds an engine that gave no sign of life is not asked again: others wait for the answer
_POOL = 16


class DockerClient:
    """One engine behind a unix socket. Safe from several threads."""

    def __init__(self, base_url: str, start: str = "") -> None:
        """`start` is the hint of errors about an engine that is away; "" the usual one."""
        if not base_url.startswith(SCHEME + "/"):
            raise Invalid(
                "bad_docker_url",
                f"{base_url!r} is not the address of a local Docker engine",
                hint="Write it as unix:///var/run/docker.sock.",
            )
        self.base_url = base_url
        self.socket_path = base_url.removeprefix(SCHEME)
        self._start = start
        self._lock = threading.Lock()
        self._sessions: dict[float, APIClient] = {}
        self._version: tuple[int, int] | None = None
        self._silent_until = 0.0
        self._answered = 0.0

    @property
    def api_version(self) -> tuple[int, int]:
        """The API version agreed upon with the engine, e.g. (1, 41). Asks the engine the first time."""
        if self._version is None:
            self.ping()
        return self._agreed(_PATIENT)

    def _agreed(self, timeout: float) -> tuple[int, int]:
        with self._lock:
            version = self._version
        if version is None:
            # Docker starts three programs to answer this: where the host is busy, that takes its time.
            version = self._negotiate(min(timeout, _PATIENT))
            with self._lock:
                self._version = version
        return version

    def read(self, call: Callable[[Api], T], *, missing: TriuneError | None = None) -> T:
        """Run a request that changes nothing. Raises Unreachable within 2 s; `missing` in place of a 404."""
        self._require_no_silence()
        try:
            return self._call(call, _QUICK, missing)
        except _TimedOut:
            self.ping()
        except Unreachable:
            # A kept connection may be one the engine closed when it restarted.
            self.ping()
        return self._call(call, _PATIENT, missing)

    def act(self, call: Callable[[Api], T], *, missing: TriuneError | None = None) -> T:
        """Run a request that changes something and may take minutes. An engine that is away raises Unreachable
        within 2 s; `missing` in place of a 404."""
        if time.monotonic() - self._answered > _FRESH:
            self.ping()
        return self._call(call, _LONG, missing)

    def post(self, path: str, *, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None) -> None:
        """`act` for what the SDK has no method for. `path` is made of ids and fixed words only."""

        def call(api: Api) -> None:
            url = f"{api.base_url}/v{api.api_version}{path}"
            api._raise_for_status(api.post(url, params=query, json=body, timeout=api.timeout))

        self.act(call)

    def ping(self) -> None:
        """Raise Unreachable if the engine gives no sign of life."""
        self._require_no_silence()
        try:
            self._sign_of_life()
        except TriuneError as error:
            if isinstance(error, _TimedOut):
                self._silent_until = time.monotonic() + _SILENCE
            self.forget()
            raise

    def _sign_of_life(self) -> None:
        if self._version is not None:
            self._call(lambda api: api.ping(), _SIGN_OF_LIFE, None)
            return
        try:
            self._call(lambda api: api.ping(), _SIGN_OF_LIFE, None, version=NEWEST_API)
        except Unreachable:
            raise
        except TriuneError:
            return  # it may not speak that version: it lives

    def _require_no_silence(self) -> None:
        if time.monotonic() < self._silent_until:
            raise _TimedOut(*_silent(self.socket_path), hint=self._start or _START)

    def forget(self) -> None:
        """Drop connections and what was agreed upon: the engine may come back as another version."""
        with self._lock:
            sessions, self._sessions = self._sessions, {}
            self._version = None
        for session in sessions.values():
            session.close()

    def stream(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        hijack: bool = False,
        missing: TriuneError | None = None,
    ) -> RawStream:
        """Open a connection whose answer has no end in sight; `hijack` makes it two-way.

        `path` is made of ids and fixed words only. Raises Unreachable within 2 s; `missing` in place of a 404.
        """
        self.ping()
        major, minor = self.api_version
        try:
            stream = RawStream.open(
                self.socket_path, method, f"/v{major}.{minor}{path}", query, body, headers, hijack=hijack
            )
        except OSError as error:
            self.forget()
            raise unreachable(self.socket_path, error, self._start) from error
        if stream.status >= 400:
            with stream:
                raise refused(stream.status, stream.message(), missing)
        return stream

    def _negotiate(self, timeout: float) -> tuple[int, int]:
        found = self._call(lambda api: api.version(api_version=False), timeout, None, version=NEWEST_API)
        major, _, minor = str(found.get("ApiVersion", "")).partition(".")
        server = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
        if server < OLDEST_API:
            raise Unsupported(
                "docker_too_old",
                f"Docker {found.get('Version', 'of unknown version')} is too old",
                hint="Triune needs Docker 20.10 or newer: apt install docker.io",
            )
        return min(server, NEWEST_API)

    def _call(
        self,
        call: Callable[[Api], T],
        timeout: float,
        missing: TriuneError | None,
        version: tuple[int, int] | None = None,
    ) -> T:
        import docker.errors
        import requests.exceptions

        session = self._session(timeout, version or self._agreed(timeout))
        try:
            answer = call(session)
        except docker.errors.APIError as error:
            raise translated(error, missing) from error
        except requests.exceptions.ConnectionError as error:
            if _timed_out(error):
                raise _TimedOut(*_silent(self.socket_path), hint=self._start or _START) from error
            raise unreachable(self.socket_path, error, self._start) from error
        except requests.exceptions.Timeout as error:
            raise _TimedOut(*_silent(self.socket_path), hint=self._start or _START) from error
        except (requests.exceptions.RequestException, docker.errors.DockerException) as error:
            raise Failed(
                "docker_failed",
                f"Docker's answer could not be read: {_one_line(str(error))}",
                hint="Look at the engine's own log: journalctl -u docker",
            ) from error
        self._answered = time.monotonic()
        return answer

    def _session(self, timeout: float, version: tuple[int, int]) -> APIClient:
        with self._lock:
            session = self._sessions.get(timeout)
            if session is None:
                session = _new_session(self.base_url, timeout, version)
                # The one used to negotiate speaks a version the engine may not know.
                if version == self._version:
                    self._sessions[timeout] = session
            return session


class _TimedOut(Unreachable):
    """No answer in time; the engine may be hung or merely busy."""


def _new_session(base_url: str, timeout: float, version: tuple[int, int]) -> APIClient:
    from docker import APIClient

    session = APIClient(
        base_url=base_url,
        version=f"{version[0]}.{version[1]}",
        timeout=timeout,  # type: ignore[arg-type]  # seconds may be a fraction
        max_pool_size=_POOL,
    )
    # Proxies and ~/.netrc mean nothing to a unix socket, and looking for them costs more than the request.
    session.trust_env = False
    return session


def unreachable(socket_path: str, error: BaseException, start: str = "") -> TriuneError:
    """The error for an engine that cannot be talked to; `start` is its hint, "" the usual one."""
    cause = _os_error(error)
    if isinstance(cause, PermissionError):
        return Denied(
            "docker_denied",
            f"Docker's socket {socket_path} may not be used by this user",
            hint="Run as root, or as a member of the group docker.",
        )
    if isinstance(cause, FileNotFoundError) and not Path(socket_path).exists():
        return Unreachable(
            "engine_unreachable",
            f"Docker does not run: there is no socket {socket_path}",
            hint=start or "Start it: systemctl start docker (or: dockerd); to install it: triune setup",
        )
    return Unreachable(*_silent(socket_path), hint=start or _START)


_START = "Start it: systemctl start docker (or: dockerd); its log: journalctl -u docker"


def _silent(socket_path: str) -> tuple[str, str]:
    return "engine_unreachable", f"Docker does not answer on {socket_path}"


def translated(error: APIError, missing: TriuneError | None) -> TriuneError:
    """Our error for the SDK's, chosen by HTTP status."""
    return refused(error.status_code or 500, str(error.explanation or ""), missing)


def refused(status: int, message: str, missing: TriuneError | None) -> TriuneError:
    """Our error for an answer of 400 or more. `missing` is raised for 404."""
    said = _one_line(message) or f"status {status}, without a message"
    if status == 404:
        return missing or NotFound("docker_not_found", f"Docker: {said}", hint="Look with: docker ps -a; docker images")
    kind, code, hint = {
        400: (Invalid, "docker_refused", "Change what was asked for; Docker's sentence says what it minds."),
        401: (Denied, "docker_denied", "Docker asks for other credentials."),
        403: (Denied, "docker_denied", "Docker, or a plugin of it, forbids this."),
        409: (Conflict, "docker_conflict", "Look at its state with: triune list"),
        501: (Unsupported, "docker_unsupported", "This Docker engine cannot do it."),
    }.get(status, (Failed, "docker_failed", "Look at the engine's own log: journalctl -u docker"))
    return kind(code, f"Docker: {said}", hint=hint, status=status)


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:600]


def _causes(error: BaseException) -> Iterator[BaseException]:
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue:
        one = queue.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        queue += [part for part in (*one.args, one.__cause__, one.__context__) if isinstance(part, BaseException)]


def _os_error(error: BaseException) -> OSError | None:
    import requests.exceptions

    for one in _causes(error):
        # requests' own exceptions are OSErrors too.
        if isinstance(one, OSError) and not isinstance(one, requests.exceptions.RequestException):
            return one
    return None


def _timed_out(error: BaseException) -> bool:
    return any(isinstance(one, TimeoutError) for one in _causes(error))
