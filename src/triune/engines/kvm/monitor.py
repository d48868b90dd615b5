"""QEMU's own monitor (QMP), through libvirt, for the few things that libvirt offers in no other way.

Commands: qemu.org/docs/master/interop/qemu-qmp-ref.html. libvirt notes in the domain's log that its monitor was used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed
from triune.engines.kvm.client import Client, agent_library


class Monitor:
    """The monitor of one running domain."""

    def __init__(self, client: Client, domain: Any, name: str) -> None:
        self._client = client
        self._domain = domain
        self._name = name

    def ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """The command's `return` value. Raises Failed("qemu_failed") with what QEMU says."""
        request = json.dumps({"execute": command, "arguments": dict(arguments or {})})
        with self._client.errors(self._name):
            text = agent_library().qemuMonitorCommand(self._domain, request, 0)
        answer = json.loads(text)
        if "error" in answer:
            raise Failed(
                "qemu_failed",
                f"QEMU refuses {command} for {self._name!r}: {answer['error'].get('desc', 'no reason')}",
                hint=f"See: /var/log/libvirt/qemu/{self._name}.log",
            )
        return answer.get("return")

    def nodes(self) -> Mapping[Path, str]:
        """The block node of each disk's uppermost image, by its file."""
        blocks: Sequence[dict[str, Any]] = self.ask("query-block")
        inserted = [block["inserted"] for block in blocks if block.get("inserted")]
        return {Path(one["file"]): str(one["node-name"]) for one in inserted}
