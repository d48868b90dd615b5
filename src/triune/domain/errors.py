"""The one tree of errors.

    TriuneError
    ├── Invalid        bad input                       exit 2, HTTP 422
    ├── NotFound       no such thing                   exit 3, HTTP 404
    ├── Conflict       exists, busy, in use, stale     exit 4, HTTP 409
    │   └── Stale      If-Match did not match          exit 4, HTTP 412
    ├── Denied         not allowed                     exit 5, HTTP 403
    ├── Unsupported    this host or engine cannot      exit 6, HTTP 501
    ├── Unreachable    a daemon does not answer        exit 7, HTTP 503
    ├── Cancelled      the user cancelled it           exit 1, HTTP 409
    └── Failed         it was tried and failed         exit 1, HTTP 500

Every error has a stable `code` (snake_case), a sentence that names the thing, and a `hint`: the next step.
"""

from __future__ import annotations

# `typing` is not imported at run time: the command line's quickest command raises and maps these errors too.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


class TriuneError(Exception):
    """Base of all errors a user may see."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, code: str, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details = details

    @property
    def kind(self) -> str:
        """Name of its class in the tree above; that of its nearest base where the class is a module's own."""
        return next((base.__name__ for base in type(self).__mro__ if base.__name__ in KINDS), Failed.__name__)

    def as_dict(self) -> dict[str, Any]:
        """Return `{code, message, hint, kind, details?}`, JSON-safe if the details are."""
        data: dict[str, Any] = {
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }
        if self.details:
            data["details"] = self.details
        return data


class Failed(TriuneError):
    """It was tried and did not work."""


class Invalid(TriuneError):
    """The input is wrong."""

    exit_code = 2
    http_status = 422


class NotFound(TriuneError):
    """There is no such thing."""

    exit_code = 3
    http_status = 404


class Conflict(TriuneError):
    """It exists already, is busy, or is in use."""

    exit_code = 4
    http_status = 409


class Stale(Conflict):
    """The resource changed since the client read it."""

    http_status = 412


class Denied(TriuneError):
    """Not allowed."""

    exit_code = 5
    http_status = 403


class Unsupported(TriuneError):
    """This host or this engine cannot do it; the message says why."""

    exit_code = 6
    http_status = 501


class Unreachable(TriuneError):
    """A daemon does not answer."""

    exit_code = 7
    http_status = 503


class Cancelled(TriuneError):
    """The user cancelled the operation."""

    http_status = 409


KINDS: dict[str, type[TriuneError]] = {
    kind.__name__: kind
    for kind in (
        Failed,
        Invalid,
        NotFound,
        Conflict,
        Stale,
        Denied,
        Unsupported,
        Unreachable,
        Cancelled,
    )
}


def from_dict(data: dict[str, Any]) -> TriuneError:
    """Rebuild an error from `as_dict`; an unknown kind becomes `Failed`. The dict may come from a stranger."""
    kind = KINDS.get(str(data.get("kind")), Failed)
    error = kind(str(data.get("code", "failed")), str(data.get("message", "")), hint=str(data.get("hint", "")))
    details = data.get("details")
    if isinstance(details, dict):
        error.details = {str(key): value for key, value in details.items()}
    return error
