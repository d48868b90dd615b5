"""The progress of a pull, and what its failure means."""

from __future__ import annotations

import json
import re

from triune.domain.errors import Denied, Failed, NotFound, TriuneError, Unreachable
from triune.engines.base import Credentials

_DONE = frozenset({"Pull complete", "Already exists"})

# Docker answers 500 for whatever a registry or the network did, so only its words are left. The first are the
# error codes of the distribution specification and the SDK's "no credentials"; the others Go's network errors.
_DENIED = re.compile(r"unauthorized|denied|no basic auth credentials|authentication required|\b40[13]\b", re.IGNORECASE)
_MISSING = re.compile(r"manifest unknown|name unknown|not found", re.IGNORECASE)
_AWAY = re.compile(
    r"dial tcp|no such host|connection refused|connection reset|i/o timeout|timeout exceeded|deadline exceeded"
    r"|network is unreachable|no route to host|tls:|x509:|server gave http response|unexpected eof|: eof",
    re.IGNORECASE,
)


class PullProgress:
    """Adds up the layers: half of a layer's work is its download, half its unpacking."""

    def __init__(self) -> None:
        self.text = ""
        self._layers: dict[str, tuple[float, int]] = {}

    def feed(self, line: bytes) -> float | None:
        """Take one line of Docker's progress; return the fraction of all known layers, None while none is known."""
        try:
            data = json.loads(line)
        except ValueError:
            return self.fraction
        if not isinstance(data, dict):
            return self.fraction
        layer, status = str(data.get("id", "")), str(data.get("status", ""))
        detail = data.get("progressDetail") or {}
        current, total = detail.get("current"), detail.get("total")
        _, size = self._layers.get(layer, (0.0, 0))
        if status in _DONE:
            self._layers[layer] = (1.0, size)
        elif isinstance(current, int) and isinstance(total, int) and total > 0:
            share = min(current / total, 1.0) / 2
            self._layers[layer] = (share + (0.5 if status == "Extracting" else 0.0), total)
        done = sum(share == 1.0 for share, _ in self._layers.values())
        self.text = f"{done} of {len(self._layers)} layers" if self._layers else status
        return self.fraction

    @property
    def fraction(self) -> float | None:
        """0 to 1, weighted by size."""
        if not self._layers:
            return None
        weights = [(share, max(size, 1)) for share, size in self._layers.values()]
        return sum(share * size for share, size in weights) / sum(size for _, size in weights)


def pull_error(reference: str, error: TriuneError, credentials: Credentials | None) -> TriuneError:
    """What a failed pull means for the user."""
    said = error.message.removeprefix("Docker: ")
    if isinstance(error, NotFound) or _MISSING.search(said):
        return NotFound(
            "image_not_found",
            f"the registry has no image {reference}",
            hint="Check the name and tag. If it is private, give a user name and password.",
        )
    if _AWAY.search(said):
        return Unreachable(
            "registry_unreachable",
            f"the registry of {reference} cannot be reached: {said}",
            hint="Check the registry's address, and this host's network and proxy (of dockerd itself).",
        )
    if _DENIED.search(said):
        return Denied(
            "registry_denied",
            f"the registry does not let {'this user' if credentials else 'anonymous users'} pull {reference}",
            hint="Give the right user name and password." if credentials else "Give a user name and password.",
        )
    return Failed("pull_failed", f"{reference} could not be pulled: {said}", hint="Try by hand: docker pull IMAGE")
