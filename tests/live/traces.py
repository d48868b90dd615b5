"""What an instance can leave on a host: read from outside, to be compared before and after."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.live.daemon import BRIDGE, TABLE, Daemon
from tests.patience import PATIENCE


def _lines(*argv: str) -> list[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.stdout.splitlines()


def _files(root: Path) -> set[str]:
    """Every path below, but not what is in the image trees mounted in folders called `lower`."""
    found: set[str] = set()
    for folder, folders, files in os.walk(root):
        found.update(f"{folder}/{name}" for name in (*folders, *files) if not name.endswith((".log", ".leases")))
        if Path(folder).name == "lower":
            folders.clear()
    return found


def _rules() -> set[str]:
    """Our rules without their handles and counters, so that a rewritten table compares equal."""
    listed = subprocess.run(["nft", "-j", "list", "table", "ip", TABLE], capture_output=True, check=False).stdout
    rules = json.loads(listed)["nftables"] if listed else []
    return {json.dumps(_stripped(item), sort_keys=True) for item in rules}


def _stripped(value: object) -> object:
    if isinstance(value, dict):
        return {key: _stripped(part) for key, part in value.items() if key not in ("handle", "packets", "bytes")}
    if isinstance(value, list):
        return [_stripped(part) for part in value]
    return value


def traces(daemon: Daemon, prefix: str, *, volumes: bool) -> dict[str, set[str]]:
    """Everything on the host that may belong to an instance, by kind. Docker's `volumes` are everybody's."""
    return {
        "domains": {line for line in _lines("virsh", "list", "--all", "--name") if line.startswith(prefix)},
        "containers": {path.name for path in Path("/var/lib/lxc").glob(f"{prefix}*")},
        "docker": {
            line for line in _lines("/usr/bin/docker", "ps", "-a", "--format", "{{.Names}}") if line.startswith(prefix)
        },
        "docker-volumes": set(_lines("/usr/bin/docker", "volume", "ls", "-q")) if volumes else set(),
        "disks": _files(daemon.data / "instances"),
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if prefix in line},
        "ports": {line.split()[1] for line in _lines("ip", "-o", "link", "show", "master", BRIDGE)},
        "rules": _rules(),
        "hosts": {line for line in Path("/etc/hosts").read_text().splitlines() if prefix in line},
        "names": set(_lines("grep", "-rl", prefix, f"{daemon.data}/network")),
        "processes": {
            line for line in _lines("ps", "-eo", "args") if prefix in line and ("qemu" in line or "lxc" in line)
        },
    }
