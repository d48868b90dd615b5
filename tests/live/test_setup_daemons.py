"""Setup starts the engines' daemons where systemd is not PID 1: tried in namespaces of its own, beside the host's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.kvm, pytest.mark.docker]

# Empty folders for everything the daemons keep, a network and a process table of their own: the last process to end
# takes them all away.
PRIVATE = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private"]
PROGRAM = """
import json, subprocess
from pathlib import Path
from triune.host.probe.view import Tools
from triune.host.setup.daemons import LiveRestore, daemons
from triune.host.setup.machine import Machine
from triune.host.setup.plan import apply

for folder in ("/run", "/var/log", "/var/lib/docker", "/var/lib/libvirt", "/var/cache"):
    Path(folder).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tdr-none", folder], check=True)
for folder in ("/var/log/libvirt", "/var/lib/libvirt/images", "/var/cache/libvirt"):
    Path(folder).mkdir(parents=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
machine = Machine()
said = []
steps = [*daemons(machine), LiveRestore(machine)]
apply(steps, lambda mark, text: said.append((mark, text)))
first, said[:] = list(said), []
apply(steps, lambda mark, text: said.append((mark, text)))
info = Tools().ask("/run/docker.sock", "/info")
uri = Tools().text("virsh", "-c", "qemu:///system", "uri")
print(json.dumps({"first": first, "second": said, "live": info["LiveRestoreEnabled"], "uri": uri}))
"""


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="hardware: systemd is PID 1 and starts them")
def test_daemons_are_started_directly_and_once() -> None:
    # A shell is the first process there, as an init would be: it reaps what the daemons leave behind.
    argv = [*PRIVATE, "sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [mark for mark, _ in told["first"]] == ["do", "done"] * 3 + ["ok"]
    assert {mark for mark, _ in told["second"]} == {"ok"}, "a second run starts nothing"
    assert told["live"] is True
    assert told["uri"] == "qemu:///system"
