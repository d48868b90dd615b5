"""`show`, for people."""

from __future__ import annotations

import re
from typing import Any

import pytest
from click.testing import CliRunner

from triune.cli import show

FOUND: dict[str, Any] = {
    "name": "web", "engine": "lxc", "state": "running", "addresses": ["10.87.0.10"], "image": "debian/12",
    "origin": "managed", "created": "2026-01-01T00:00:00.123456+00:00", "cpus": None, "memory_bytes": None,
    "accelerated": None, "error": None, "restarts": 0, "uptime_s": 61.0, "memory_used_bytes": 1 << 20,
    "disk_used_bytes": None, "kernel": "6.1", "settings": {}, "command": ["sh", "-c", "echo a b"],
    "isolation": {
        "kernel": "shared", "privileged": False, "id_map": [[0, 1000000, 65536]],
        "capabilities": {"add": [], "drop": []}, "no_new_privileges": True,
    },
    "network": [{"network": "triune0", "mac": "02:00:00:00:00:01", "published": []}],
    "devices": [
        {"type": "disk", "source": "/srv/disk.qcow2", "target": "vda"},
        {"type": "serial", "source": "/dev/pts/3", "target": ""},
    ],
}  # fmt: skip


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> str:
    class Client:
        class instances:  # noqa: N801
            get = staticmethod(lambda name: FOUND)

    monkeypatch.setattr(show, "Client", Client)
    monkeypatch.setenv("TZ", "UTC")
    return CliRunner().invoke(show.show, ["web"]).output


def test_every_value_is_apart_from_its_key(shown: str) -> None:
    assert not re.search(r"^ *[A-Za-z_ ]+:[^ \n]", shown, re.MULTILINE)
    assert "  no_new_privileges: yes\n" in shown


def test_values_are_said_in_words(shown: str) -> None:
    assert "0 to 65535 inside are 1000000 to 1065535 of the host" in shown
    assert re.search(r"^  capabilities: +as by default$", shown, re.MULTILINE)
    assert re.search(r"^Created: +2026-01-01 00:00:00 \S+ \(\d+d ago\)$", shown, re.MULTILINE)
    assert re.search(r"^Command: +sh -c 'echo a b'$", shown, re.MULTILINE)


def test_each_of_several_things_begins_with_a_line_of_its_own(shown: str) -> None:
    assert re.search(
        r"^Devices\n  disk:\n    source: +/srv/disk.qcow2\n    target: +vda\n  serial:\n    source: +/dev/pts/3\n",
        shown,
        re.MULTILINE,
    )
