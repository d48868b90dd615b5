"""Whether the service of the catalogue answers yet."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

_STEP_S = 0.002


def answers(address: str, service: Mapping[str, Any], patience: float) -> bool:
    """Ask until it gives the expected answer; False where it has not within `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if _once(address, service):
            return True
        time.sleep(_STEP_S)
    return False


def _once(address: str, service: Mapping[str, Any]) -> bool:
    try:
        with socket.create_connection((address, int(service["port"])), timeout=1) as link:
            link.settimeout(1)
            link.sendall(str(service["send"]).encode())
            return link.recv(64).startswith(str(service["expect"]).encode())
    except OSError:
        return False
