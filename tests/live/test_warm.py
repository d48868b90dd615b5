"""Warm launches on the real hypervisor: templates, identities, many at once, and a `kill -9` at every step."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import CACHE, Daemon
from tests.live.kvm_fixtures import SMALL, put_small
from tests.live.system_fixtures import quicken

pytestmark = [pytest.mark.live, pytest.mark.kvm, pytest.mark.net]

IMAGE, PREFIX, DOMAIN = "debian/12", "twarm-", "twarm.internal"
SIZE = ("--engine", "kvm", "--memory", "256MiB")
CLONES = 10
# One command for all that makes a machine one of its own. RSA keys of ten emulated machines at once take minutes.
WHO = """
echo hostname=$(hostname); echo machine_id=$(cat /etc/machine-id); echo uuid=$(cat /proc/sys/kernel/random/uuid)
echo urandom=$(head -c16 /dev/urandom | od -An -tx1 | tr -d ' '); echo mac=$(cat /sys/class/net/eth0/address)
for i in $(seq 150); do
    [ -s /etc/ssh/ssh_host_ed25519_key.pub ] && ip -4 -o addr show eth0 | grep -q inet && break; sleep 1
done
echo ssh=$(cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub)
echo address=$(ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1)
echo date=$(date -u +%s)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Its own image, with an SSH server, kept between runs."""
    made = Daemon(CACHE / "warm", bridge="twarm0", table="triune_twarm", domain=DOMAIN, candidates=("10.103.0.0/16",))
    with made as daemon:
        if IMAGE not in {image["name"] for image in daemon.json("image", "list")}:
            daemon.run("image", "build", IMAGE, "--package", "openssh-server", timeout=900)
        quicken(daemon.data / "images")
        put_small(daemon.data / "images")
        daemon.remove_all(PREFIX)
        yield daemon
        daemon.kill()
        daemon.start()
        daemon.remove_all(PREFIX)
        daemon.run("image", "warm", IMAGE, "--remove")
        daemon.run("image", "warm", SMALL, "--remove")
        daemon.stop()


@pytest.fixture(scope="module")
def template(daemon: Daemon) -> dict[str, Any]:
    """What is told of the template of the machine that all of these tests launch."""
    daemon.run("image", "warm", IMAGE, "--remove")
    daemon.run("image", "warm", IMAGE, "--engine", "kvm", "--memory", "256MiB", timeout=900)
    (row,) = daemon.json("image", "show", IMAGE)["templates"]
    assert isinstance(row, dict)
    return row


def launch(
    daemon: Daemon, name: str, *options: str, image: str = IMAGE, command: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Launch; returns the operation."""
    daemon.run("launch", image, name, *SIZE, *options, *(("--", *command) if command else ()))
    return newest(daemon, "launch", name)


def newest(daemon: Daemon, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        op for op in daemon.json("ops", "list") if op["kind"] == kind and op["resource"].endswith(name)
    )
    return found


def who(daemon: Daemon, name: str) -> dict[str, str]:
    said = daemon.exec(name, "sh", "-c", WHO)
    return dict(line.split("=", 1) for line in said.splitlines())


def domains() -> str:
    return subprocess.run(["virsh", "list", "--all", "--name"], capture_output=True, text=True, check=True).stdout


def in_the_making(daemon: Daemon) -> list[str]:
    """The domains of this daemon's templates: others may be at it on the same libvirt."""
    folder = daemon.data / "instances" / "kvm-templates"
    suffix = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return [name for name in domains().split() if name.startswith("triune_template_") and name.endswith(f"_{suffix}")]


def own_templates(daemon: Daemon) -> list[Path]:
    folder = daemon.data / "instances" / "kvm-templates"
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def one(daemon: Daemon, template: dict[str, Any]) -> str:
    """A warm instance that tests leave as it is."""
    del template
    name = f"{PREFIX}one"
    operation = launch(daemon, name, "--env", "A=b c", "--disk", "12GiB", "--publish", "18970:80")
    assert operation["result"]["warm"] is True, operation
    return name


def test_a_template_costs_what_it_says_and_is_no_instance(daemon: Daemon, template: dict[str, Any]) -> None:
    assert template["ready"] is True
    assert 20 << 20 < template["size"] < 256 << 20
    assert not [name for name in daemon.names() if "template" in name]
    assert in_the_making(daemon) == []
    assert "Template: kvm, " in daemon.run("image", "show", IMAGE).stdout.decode()


def test_it_is_somebody_of_its_own(daemon: Daemon, one: str) -> None:
    found = who(daemon, one)
    detail = daemon.json("show", one)
    assert found["hostname"] == one
    assert found["address"] == detail["addresses"][0]
    assert found["mac"] == detail["network"][0]["mac"]
    assert abs(int(found["date"]) - time.time()) < 5
    domain = ET.fromstring(xml(one))
    assert found["machine_id"] == domain.findtext("uuid", "").replace("-", "")
    assert daemon.exec(one, "getent", "ahostsv4", one).split()[0] == found["address"]
    assert daemon.exec(one, "sh", "-c", "echo $A") == "b c\n"
    journals = daemon.exec(one, "sh", "-c", "ls /var/log/journal; journalctl -n1 -o cat _HOSTNAME=$(hostname) | wc -l")
    assert journals.split() == [found["machine_id"], "1"]
    assert daemon.exec(one, "systemctl", "is-active", "ssh").strip() == "active"


def test_a_larger_disk_grows(daemon: Daemon, one: str) -> None:
    deadline = time.monotonic() + 60
    size = 0
    while size < 11 << 30 and time.monotonic() < deadline:
        size = int(daemon.exec(one, "df", "--output=size", "-B1", "/").split()[1])
        time.sleep(1)
    assert size > 11 << 30


def test_published_ports_lead_to_it(daemon: Daemon, one: str) -> None:
    daemon.exec(
        one,
        "systemd-run",
        "--quiet",
        "sh",
        "-c",
        "mkdir /srv/w; hostname >/srv/w/index.html; exec busybox httpd -f -p 80 -h /srv/w",
    )
    deadline = time.monotonic() + 30
    said = b""
    while one.encode() not in said and time.monotonic() < deadline:
        said = subprocess.run(["curl", "-sS", "-m", "3", "http://127.0.0.1:18970/"], capture_output=True).stdout
    assert said.decode().strip() == one


def test_what_is_defined_is_what_a_cold_launch_defines(daemon: Daemon, one: str) -> None:
    cold = f"{PREFIX}cold"
    operation = launch(daemon, cold, "--cold", "--disk", "12GiB", "--publish", "18971:80", "--no-start")
    try:
        assert operation["result"]["warm"] is False
        assert alike(xml(one, "--inactive")) == alike(xml(cold, "--inactive"))
    finally:
        daemon.run("rm", cold, "--yes", "--force")


def xml(name: str, *options: str) -> str:
    return subprocess.run(["virsh", "dumpxml", *options, name], capture_output=True, text=True, check=True).stdout


def alike(text: str) -> str:
    """The XML without what belongs to one instance alone."""
    root = ET.fromstring(text)
    name, uuid = root.findtext("name", ""), root.findtext("uuid", "")
    mark = root.find("metadata/{*}instance")
    assert mark is not None
    for tag in ("created", "address"):
        for element in mark.findall(f"{{*}}{tag}"):
            mark.remove(element)
    mac = root.find("devices/interface/mac")
    assert mac is not None
    mac.set("address", "")
    return (
        ET.tostring(root, encoding="unicode").replace(name, "N").replace(uuid, "U").replace(uuid.replace("-", ""), "U")
    )


def test_it_stays_who_it_is_over_a_cold_boot(daemon: Daemon, one: str) -> None:
    before = who(daemon, one)
    daemon.run("restart", one, "--force", "--timeout", "60s")
    daemon.run("exec", one, "--", "true", check=False)
    deadline = time.monotonic() + 120
    while daemon.run("exec", one, "--", "true", check=False).returncode and time.monotonic() < deadline:
        time.sleep(1)
    after = who(daemon, one)
    for key in ("hostname", "machine_id", "mac", "address", "ssh"):
        assert after[key] == before[key], key
    assert "template" not in daemon.exec(one, "cat", "/proc/cmdline")


def test_ten_at_once_have_nothing_in_common(daemon: Daemon, template: dict[str, Any]) -> None:
    del template
    names = [f"{PREFIX}c{number}" for number in range(CLONES)]
    try:
        with ThreadPoolExecutor(CLONES) as pool:
            assert all(operation["result"]["warm"] for operation in pool.map(lambda name: launch(daemon, name), names))
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda name: who(daemon, name), names))
        assert [one["hostname"] for one in found] == names
        for key in ("hostname", "machine_id", "uuid", "urandom", "mac", "ssh", "address"):
            values = [one[key] for one in found]
            assert all(values), key
            assert len(set(values)) == CLONES, f"{key}: {values}"
        for one in found:
            banner = f"exec 3<>/dev/tcp/{one['hostname']}/22 && head -c4 <&3"
            assert reached(["bash", "-c", banner]) == "SSH-", f"{one['hostname']} from the host"
        everybody = " ".join(names)
        script = f"for n in {everybody}; do exec 3<>/dev/tcp/$n/22 && head -c4 <&3 && echo; done"
        assert reached([*inside(daemon, names[0]), "bash", "-c", script]).split() == ["SSH-"] * CLONES
    finally:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: daemon.run("rm", name, "--yes", "--force", check=False), names))


def inside(daemon: Daemon, name: str) -> list[str]:
    from tests.live.daemon import TRIUNE

    return ["env", f"TRIUNE_HOST={daemon.socket}", str(TRIUNE), "exec", name, "--"]


def reached(argv: list[str]) -> str:
    """What the command says, tried again for a while: an SSH server that has just begun may take its time."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode == 0 or time.monotonic() > deadline:
            return done.stdout.strip()
        time.sleep(1)


def test_native_tools_handle_it(daemon: Daemon, template: dict[str, Any]) -> None:
    del template
    name = f"{PREFIX}native"
    launch(daemon, name, "--network", "none")
    try:
        for verb in (["suspend", name], ["resume", name], ["destroy", name], ["start", name]):
            done = subprocess.run(["virsh", *verb], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert daemon.names()[name]["state"] == "running"
        assert daemon.names()[name]["origin"] == "managed"
    finally:
        daemon.run("rm", name, "--yes", "--force")
    assert name not in domains()
    assert not (daemon.data / "instances" / "kvm" / name).exists()


def test_what_must_boot_boots_and_says_why(daemon: Daemon, template: dict[str, Any]) -> None:
    del template
    name = f"{PREFIX}vnc"
    operation = launch(daemon, name, "--set", "graphics=vnc", "--wait", "running", "--network", "none")
    try:
        assert operation["result"]["warm"] is False
        assert f"booting {name}: it has a display" in [step["text"] for step in operation["steps"]]
    finally:
        daemon.run("rm", name, "--yes", "--force")


def test_a_damaged_template_costs_a_boot_and_no_launch(daemon: Daemon, template: dict[str, Any]) -> None:
    del template
    name = f"{PREFIX}damaged"
    (folder,) = own_templates(daemon)
    saved = daemon.data / "saved-template"
    shutil.rmtree(saved, ignore_errors=True)
    shutil.copytree(folder, saved)
    try:
        with (folder / "memory").open("r+b") as file:
            file.truncate(2 << 20)
        operation = launch(daemon, name, "--wait", "running")
        assert operation["result"]["warm"] is False
        assert "cold" in [step["name"] for step in operation["steps"]]
        assert daemon.names()[name]["state"] == "running"
        (row,) = daemon.json("image", "show", IMAGE)["templates"]
        assert row["ready"] is False
        assert "failed" in row["why"]
    finally:
        daemon.run("rm", name, "--yes", "--force", check=False)
        shutil.rmtree(folder, ignore_errors=True)
        saved.rename(folder)


def test_another_qemu_makes_it_stale(daemon: Daemon, template: dict[str, Any]) -> None:
    del template
    (folder,) = own_templates(daemon)
    record = folder / "template.json"
    text = record.read_text()
    changed = json.loads(text)
    changed["facts"]["qemu"] = "1"
    try:
        record.write_text(json.dumps(changed))
        (row,) = daemon.json("image", "show", IMAGE)["templates"]
        assert row["ready"] is False
        assert row["why"] == "QEMU changed since"
    finally:
        record.write_text(text)


class TestCrashes:
    """Killed at any step of a warm launch, and of the making of a template: nothing half-made is left."""

    def test_of_a_warm_launch(self, daemon: Daemon, template: dict[str, Any]) -> None:
        del template
        name = f"{PREFIX}crash"
        operation = launch(daemon, name)
        assert operation["result"]["warm"] is True
        daemon.run("rm", name, "--yes", "--force")
        points = [f"launch:{step['name']}" for step in operation["steps"]]
        assert {"launch:kvm-restore", "launch:kvm-identity"} <= set(points)
        for point in points[points.index("launch:create") :]:
            self.crash(daemon, point, "launch", IMAGE, name, *SIZE)
            assert name not in domains(), point
            assert name not in daemon.names(), point
            assert not (daemon.data / "instances" / "kvm" / name).exists(), point
            assert name not in Path("/etc/hosts").read_text(), point
        launch(daemon, name)
        daemon.run("rm", name, "--yes", "--force")

    def test_of_the_making(self, daemon: Daemon, template: dict[str, Any]) -> None:
        del template
        steps = ("template", "template-disk", "template-boot", "template-settle", "template-save", "template-publish")
        made = newest(daemon, "image-template", IMAGE)
        assert [step["name"] for step in made["steps"]] == list(steps)
        before = own_templates(daemon)
        for step in steps:
            left = self.crash(
                daemon, f"image-template:{step}", "image", "warm", SMALL, "--engine", "kvm", "--memory", "192MiB"
            )
            assert len(left) == (step in ("template-settle", "template-save")), step
            assert in_the_making(daemon) == [], step
            assert own_templates(daemon) == before, step

    @staticmethod
    def crash(daemon: Daemon, point: str, *command: str) -> list[str]:
        """Returns the domains that a template in the making has left, before the daemon is there again."""
        daemon.crash(point)
        failed = daemon.run(*command, check=False, timeout=400)
        daemon.died()
        assert failed.returncode != 0, f"{point}: the client did not notice"
        left = in_the_making(daemon)
        daemon.start()
        return left


def test_the_first_launch_makes_it_in_the_background(daemon: Daemon) -> None:
    config = daemon.data / "triune.toml"
    text = config.read_text()
    name = f"{PREFIX}first"
    daemon.run("image", "warm", SMALL, "--remove")
    daemon.stop()
    config.write_text(text.replace("automatic = false", "automatic = true"))
    daemon.start()
    try:
        began = datetime.now(UTC)
        assert launch(daemon, name, "--network", "none", image=SMALL)["result"]["warm"] is False
        deadline = time.monotonic() + 600
        while (op := newest(daemon, "image-template", SMALL))["state"] == "running" and time.monotonic() < deadline:
            time.sleep(0.2)
        assert op["state"] == "done", op
        assert datetime.fromisoformat(op["created"]) > began
        (row,) = daemon.json("image", "show", SMALL)["templates"]
        assert row["ready"] is True
        daemon.run("rm", name, "--yes", "--force")
        assert launch(daemon, name, "--network", "none", image=SMALL)["result"]["warm"] is True
    finally:
        daemon.run("rm", name, "--yes", "--force", check=False)
        daemon.stop()
        config.write_text(text)
        daemon.start()
