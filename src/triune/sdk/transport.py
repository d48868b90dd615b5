"""Requests to the daemon over its unix socket: one connection each, errors as `domain.errors`.

Kept free of costly imports: it is all that `triune list` needs.
"""

from __future__ import annotations

import json
import os
import socket

from triune.sdk.http import ProtocolError, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from triune.domain.errors import TriuneError

DEFAULT_SOCKET = "/run/triune/triune.sock"
_TIMEOUT = 60.0


class Transport:
    """Where the daemon is and how to speak to it. Safe to use from several threads."""

    def __init__(self, host: str | None = None, *, token: str | None = None) -> None:
        """`host` is a path or `unix:///path`; default is TRIUNE_HOST, then /run/triune/triune.sock.

        `token` (default TRIUNE_TOKEN) is sent as a bearer token. Raises Invalid for any other kind of address, and
        Unsupported where TRIUNE_PROJECT asks for another project than `default`, the only one there is.
        """
        _require_default_project(os.environ.get("TRIUNE_PROJECT"))
        self.socket_path = _socket_path(host or os.environ.get("TRIUNE_HOST") or DEFAULT_SOCKET)
        self.token = token or os.environ.get("TRIUNE_TOKEN")

    def headers(self) -> dict[str, str]:
        """Header fields that every request carries."""
        found = {"Host": "triune", "Connection": "close", "User-Agent": "triune-sdk"}
        if self.token:
            found["Authorization"] = f"Bearer {self.token}"
        return found

    def open(
        self,
        method: str,
        target: str,
        *,
        body: bytes | Iterable[bytes] = b"",
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = _TIMEOUT,
    ) -> Response:
        """Send a request and return the response with its body unread.

        `body` is bytes, or pieces of together `length` bytes (None: nobody knows yet, and they go in chunks).
        `timeout` bounds each wait for the server, in seconds.
        Raises Unreachable, Denied, or what the server says (4xx, 5xx).
        """
        connection = self.connect(timeout)
        fields = self.headers() | dict(headers or {})
        size = length or 0
        if isinstance(body, bytes):
            size = len(body)
        elif length is None:
            fields["Transfer-Encoding"] = "chunked"
            body = _in_chunks(body)
        if "Transfer-Encoding" not in fields and (size or method not in ("GET", "DELETE")):
            fields["Content-Length"] = str(size)
        try:
            connection.sendall(_request_head(method, target, fields))
            _send_body(connection, body)
            response = Response(connection.recv, connection.close)
            if response.status >= 400:
                raise _problem(response)
        except (OSError, ProtocolError) as error:
            connection.close()
            raise self._silent(error) from None
        except BaseException:
            connection.close()
            raise
        return response

    def call(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = _TIMEOUT,
    ) -> Any:
        """Send JSON, return JSON (None for an empty body)."""
        data = b"" if body is None else json.dumps(body).encode()
        fields = dict(headers or {})
        if body is not None:
            fields["Content-Type"] = "application/json"
        response = self.open(method, target, body=data, headers=fields, timeout=timeout)
        try:
            text = response.read()
            return json.loads(text) if text else None
        except (OSError, ProtocolError, ValueError, RecursionError) as error:
            raise self._silent(error) from None

    def connect(self, timeout: float | None) -> socket.socket:
        """A connection to the daemon. Raises Unreachable or Denied."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(self.socket_path)
        except OSError as error:
            connection.close()
            raise _no_connection(self.socket_path, error) from None
        return connection

    def _silent(self, error: Exception) -> TriuneError:
        from triune.domain.errors import Unreachable

        said = "did not answer in time" if isinstance(error, TimeoutError) else f"broke off: {error}"
        return Unreachable(
            "daemon_broke_off",
            f"the daemon at {self.socket_path} {said}",
            hint="See its log, /var/log/triune.log or: journalctl -u triune",
        )


def target(where: str, /, **parameters: object) -> str:
    """A path with a query; None is left out, True and False become 1 and 0."""
    given = {key: int(value) if isinstance(value, bool) else value for key, value in parameters.items()}
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return where
    if all(isinstance(value, int | float) for value in given.values()):
        return f"{where}?" + "&".join(f"{key}={value}" for key, value in given.items())
    from urllib.parse import urlencode

    return f"{where}?{urlencode(given)}"


def segment(name: str, *, slash: bool = False) -> str:
    """A name as part of a path; `slash` keeps slashes (names of images)."""
    if name.isascii() and name.replace("-", "").isalnum():
        return name
    from urllib.parse import quote

    return quote(name, safe="/:" if slash else "")


def _require_default_project(project: str | None) -> None:
    # Not passed over in silence: who has it set would work on other instances than they think.
    if project not in (None, "", "default"):
        from triune.domain.errors import Unsupported

        raise Unsupported(
            "no_projects",
            f"there is no project {project!r}: this version has no other than 'default'",
            hint="Unset TRIUNE_PROJECT.",
        )


def _socket_path(host: str) -> str:
    host = host.removeprefix("unix://") if host.startswith("unix://") else host.removeprefix("unix:")
    if not host.startswith(("/", "./", "../")) or "\0" in host:
        from triune.domain.errors import Invalid

        raise Invalid(
            "bad_host",
            f"{host!r} is not the address of a daemon",
            hint="Set TRIUNE_HOST to a socket's path, like unix:///run/triune/triune.sock.",
        )
    return host


def _request_head(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    for line in lines:
        if not line.isascii() or not line.isprintable():
            from triune.domain.errors import Invalid

            raise Invalid(
                "control_character",
                "a header field of the request has a character it must not have",
                hint="Use printable ASCII characters in tokens, keys and names.",
            )
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 9112, section 7.1."""
    for piece in pieces:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _send_body(connection: socket.socket, body: bytes | Iterable[bytes]) -> None:
    try:
        for piece in (body,) if isinstance(body, bytes) else body:
            connection.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        return  # the server answered before it read everything (413): what it says is read next


def _no_connection(path: str, error: OSError) -> TriuneError:
    from triune.domain.errors import Denied, Unreachable

    if isinstance(error, PermissionError):
        return Denied(
            "socket_denied",
            f"you may not use the daemon's socket {path}",
            hint="Run it as root, or join its group: sudo usermod -aG triune $USER (then log in again)",
        )
    return Unreachable(
        "daemon_unreachable",
        f"no Triune daemon answers at {path}",
        hint="Start it: sudo triune serve --detach (with systemd: sudo systemctl start triune)",
    )


def _problem(response: Response) -> TriuneError:
    """The error that a problem document (RFC 9457) tells."""
    from triune.domain.errors import from_dict

    try:
        data = json.loads(response.read(2**20))
    except (ProtocolError, ValueError, RecursionError):
        data = None
    return from_dict(problem_fields(data, response.status))


def problem_fields(data: object, status: int = 500) -> dict[str, Any]:
    """Turn a problem document into what `domain.errors.from_dict` reads."""
    fields: dict[str, Any] = data if isinstance(data, dict) else {}
    kinds = {401: "Denied", 403: "Denied", 404: "NotFound", 409: "Conflict", 412: "Stale", 422: "Invalid"}
    return {
        "kind": fields.get("kind") or kinds.get(status, "Failed"),
        "code": fields.get("code") or "http_error",
        "message": fields.get("detail") or f"the daemon answered with status {status}",
        "hint": fields.get("hint") or "",
        "details": fields.get("details"),
    }
