"""The QEMU guest agent, through libvirt. Its answers come from the guest: nothing in them is trusted."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from triune.domain.errors import Failed
from triune.engines.kvm.client import Client, agent_library

_MAX_ANSWER = 32 * 2**20


class Agent:
    """The agent of one running domain."""

    def __init__(self, client: Client, domain: Any, name: str) -> None:
        self._client = client
        self._domain = domain
        self._name = name

    def ask(self, command: str, arguments: dict[str, Any] | None = None, *, timeout: int = 5) -> Any:
        """The agent's `return` value. Raises Unsupported("no_guest_agent"), Conflict, or Failed."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        with self._client.errors(self._name):
            text = agent_library().qemuAgentCommand(self._domain, json.dumps(request), timeout, 0)
        try:
            if len(text) > _MAX_ANSWER:
                raise ValueError
            return json.loads(text)["return"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._nonsense() from None

    def ping(self, timeout: int = 1) -> None:
        """Return if it answers."""
        self.ask("guest-ping", timeout=timeout)

    def execute(
        self, argv: Sequence[str], *, stdin: bytes | None = None, env: Sequence[str] = (), capture: bool = False
    ) -> int:
        """Start a program in the guest; return its process id."""
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": capture}
        if env:
            arguments["env"] = list(env)
        if stdin is not None:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        answer = self.ask("guest-exec", arguments, timeout=20)
        if not isinstance(answer, dict) or not isinstance(answer.get("pid"), int):
            raise self._nonsense()
        return int(answer["pid"])

    def outcome(self, pid: int) -> tuple[int, bytes, bytes] | None:
        """(exit code, stdout, stderr) of a program started with `execute`, or None while it runs."""
        answer = self.ask("guest-exec-status", {"pid": pid}, timeout=20)
        if not isinstance(answer, dict):
            raise self._nonsense()
        if answer.get("exited") is not True:
            return None
        try:
            out = base64.b64decode(str(answer.get("out-data", "")))
            err = base64.b64decode(str(answer.get("err-data", "")))
            code = 128 + int(answer["signal"]) if answer.get("signal") else int(answer.get("exitcode", 0))
        except (binascii.Error, ValueError, TypeError):
            raise self._nonsense() from None
        return code & 0xFF, out, err

    def _nonsense(self) -> Failed:
        return Failed(
            "bad_agent_answer",
            f"the guest agent of {self._name!r} answered nonsense",
            hint=f"Look inside: triune console {self._name}",
        )
