"""Programs: which versions are installed, which of their daemons answer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triune.domain.finding import Finding
from triune.host import bindings, criu, rootless
from triune.host.probe.view import Facts, View, missing, ok, unknown, warning

AREA = "programs"
DOCKER_SOCKET = "/run/docker.sock"
TRIUNE_SOCKET = "/run/triune/triune.sock"
TPM_MAKERS = "/var/lib/swtpm-localca"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to look for. `optional` ones are not needed by anything Triune does by itself.

    `purpose` is the part of Triune that alone does not work without it.
    """

    id: str
    title: str
    argv: tuple[str, ...]
    package: str | None
    optional: bool = False
    purpose: str = ""


PROGRAMS = (
    Program("qemu", "QEMU", ("qemu-system-x86_64", "--version"), "qemu-system-x86"),
    Program("libvirt", "libvirt", ("libvirtd", "--version"), "libvirt-daemon-system"),
    Program("lxc", "LXC", ("lxc-start", "--version"), "lxc"),
    Program("docker", "Docker", ("dockerd", "--version"), "docker.io"),
    Program("containerd", "containerd", ("containerd", "--version"), "containerd"),
    Program("runc", "runc", ("runc", "--version"), "runc"),
    Program("restic", "restic", ("restic", "version"), "restic", purpose="backups"),
    Program("sshfs", "sshfs", ("sshfs", "--version"), "sshfs", purpose="`triune mount`"),
    Program(
        "virt-v2v",
        "virt-v2v",
        ("virt-v2v-in-place", "--version"),
        "virt-v2v nbdkit",
        optional=True,
        purpose="`triune import --inject-drivers`",
    ),
    Program(
        "swtpm",
        "swtpm",
        ("swtpm_setup", "--version"),
        "swtpm swtpm-tools",
        optional=True,
        purpose="an imported machine's TPM",
    ),
    Program("crun", "crun", ("crun", "--version"), "crun", optional=True),
    Program("gvisor", "gVisor (runsc)", ("runsc", "--version"), "runsc", optional=True),
    Program("kata", "Kata Containers", ("kata-runtime", "--version"), None, optional=True),
)


def parse_version(text: str) -> str | None:
    """The first version number in what a program said of itself: `QEMU emulator version 7.2.9 (Debian…)` → 7.2.9."""
    match = re.search(r"(?<![\w.])v?(\d{1,9}(?:\.\d{1,9})+)", text, re.ASCII)
    if match and match.group(1) != "0.0":
        return match.group(1)
    # gVisor's releases are dates: `runsc version release-20240729.0`, or `0.0~20221219.0` as Debian writes it.
    dated = re.search(r"(?<!\d)20\d{6}(?:\.\d{1,9})?", text, re.ASCII)
    return dated.group(0) if dated else None


def probe(view: View) -> Sequence[Finding]:
    """Every program, the daemons behind them, the bindings, and Docker clients that hide each other."""
    found = [_program(view, program) for program in PROGRAMS]
    daemons = [*_docker_daemon(view), _libvirt_daemon(view), _triune_daemon(view)]
    return [*found, *_docker_clients(view), *daemons, *_tpm_makers(view), _bindings(view)]


def _program(view: View, program: Program) -> Finding:
    facts: Facts = {"optional": True} if program.optional else {}
    name = f"programs.{program.id}"
    result = view.tools.run(*program.argv)
    if result is None and view.tools.find(program.argv[0]):
        return unknown(name, AREA, f"{program.title} is installed but did not answer in time.", version=None)
    if result is None:
        fix = f"apt-get install -y --no-install-recommends {program.package}" if program.package else None
        without = f": {program.purpose} cannot work" if program.purpose else ""
        return missing(name, AREA, f"{program.title} is not installed{without}.", fix, version=None, **facts)
    version = parse_version(_own_lines(program, (result.stdout + result.stderr).decode(errors="replace")))
    if version is None:
        return unknown(name, AREA, f"{program.title} is installed but does not tell its version.", version=None)
    return ok(name, AREA, f"{program.title} {version}.", version=version, **facts)


def _own_lines(program: Program, text: str) -> str:
    """What it said, beginning with the line that names it: sshfs tells of fusermount first."""
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if program.title.lower() in line.lower()), 0)
    return "\n".join(lines[first:])


def docker_info(view: View) -> Mapping[str, Any] | None:
    """Docker's own account of itself (`GET /info`), or None where it does not answer."""
    answer = view.tools.ask(DOCKER_SOCKET, "/info")
    return answer if isinstance(answer, dict) else None


def _docker_daemon(view: View) -> list[Finding]:
    if view.tools.find("dockerd") is None and not view.files.exists(DOCKER_SOCKET):
        return []
    if not view.root and not os.access(view.files.path(DOCKER_SOCKET), os.W_OK):
        return [unknown("programs.docker-daemon", AREA, "Docker's socket is closed to you.", "sudo triune doctor")]
    info = docker_info(view)
    if info is None:
        sentence = "Docker's daemon does not answer on its socket."
        return [missing("programs.docker-daemon", AREA, sentence, "triune setup", answers=False)]
    facts: Facts = {
        "answers": True,
        "version": info.get("ServerVersion"),
        "storage": info.get("Driver"),
        "cgroup_driver": info.get("CgroupDriver"),
        "runtimes": sorted(info.get("Runtimes") or {}),
    }
    sentence = (
        f"Docker's daemon {facts['version']} answers; storage {facts['storage']}, cgroups by {facts['cgroup_driver']}."
    )
    found = [ok("programs.docker-daemon", AREA, sentence, **facts), _live_restore(info), _rootless(view)]
    return [*found, _running_state(info)] if view.live else found


def _running_state(info: Mapping[str, Any]) -> Finding:
    """Whether snapshots of app containers can keep their processes, which nobody has to need."""
    name = "programs.checkpoints"
    why = criu.why_not(info, DOCKER_SOCKET)
    if why is None:
        return ok(name, AREA, "Snapshots of app containers can keep their running state (CRIU).", works=True)
    return warning(
        name, AREA, f"Snapshots of app containers can't keep their running state: {why}.", works=False, optional=True
    )


def _live_restore(info: Mapping[str, Any]) -> Finding:
    enabled = bool(info.get("LiveRestoreEnabled"))
    if enabled:
        return ok("programs.live-restore", AREA, "Docker's containers outlive a restart of its daemon.", enabled=True)
    sentence = "Docker's live-restore is off: a restart of its daemon stops every container."
    return warning("programs.live-restore", AREA, sentence, "triune setup --live-restore", enabled=False)


def _rootless(view: View) -> Finding:
    """The second Docker daemon, which nobody has to have."""
    name = "programs.rootless-docker"
    if not rootless.installed(view.files.root):
        sentence = "There is no Docker daemon without root, for app containers that are to be held tighter."
        return warning(name, AREA, sentence, rootless.SETUP, installed=False, optional=True)
    if not view.root:
        return unknown(name, AREA, "The rootless Docker daemon's socket is closed to you.", "sudo triune doctor")
    info = view.tools.ask(str(rootless.PLACE.socket), "/info")
    if not isinstance(info, dict):
        sentence = "The rootless Docker daemon does not answer on its socket."
        return warning(name, AREA, sentence, "triune setup", installed=True, answers=False)
    facts: Facts = {"installed": True, "answers": True, "version": info.get("ServerVersion")}
    sentence = f"The rootless Docker daemon {facts['version']} answers; storage {info.get('Driver')}."
    return ok(name, AREA, sentence, **facts, storage=info.get("Driver"))


def _triune_daemon(view: View) -> Finding:
    name = "programs.triune-daemon"
    answer = view.tools.ask(TRIUNE_SOCKET, "/v1")
    if isinstance(answer, dict):
        version = answer.get("version")
        return ok(name, AREA, f"Triune's daemon {version} answers.", answers=True, version=version)
    if not view.root and view.files.exists(TRIUNE_SOCKET) and not os.access(view.files.path(TRIUNE_SOCKET), os.W_OK):
        fix = 'sudo usermod --append --groups triune "$USER"'
        return unknown(name, AREA, "Triune's socket is open to root and to group triune only.", fix)
    return missing(name, AREA, "Triune's daemon does not answer.", "triune setup", answers=False)


def _docker_clients(view: View) -> list[Finding]:
    """A second `docker` earlier on PATH may be another program, or speak to another engine."""
    folders = dict.fromkeys((os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin").split(":"))
    clients: dict[str, str] = {}
    for folder in folders:
        path = str(view.files.path(f"{folder}/docker"))
        # Folders on PATH that we may not enter are skipped, where Path.is_file() would raise.
        if folder.startswith("/") and os.path.isfile(path):  # noqa: PTH113
            clients.setdefault(os.path.realpath(path), f"{folder}/docker")
    if len(clients) < 2:
        return []
    first, *others = clients.values()
    sentence = f"Several docker clients: {first} comes first, then {', '.join(others)}; Triune uses none of them."
    return [warning("programs.docker-clients", AREA, sentence, clients=[first, *others], optional=True)]


def _libvirt_daemon(view: View) -> Finding:
    name = "programs.libvirt-daemon"
    if view.tools.find("virsh") is None:
        sentence = "libvirt's client is not installed."
        return missing(name, AREA, sentence, "apt-get install -y --no-install-recommends libvirt-clients")
    if not view.root:
        return unknown(name, AREA, "Only root may ask libvirt's system daemon.", "sudo triune doctor")
    uri = view.tools.text("virsh", "-c", "qemu:///system", "uri")
    if uri is None:
        return missing(name, AREA, "libvirt's daemon does not answer.", "triune setup", answers=False)
    return ok(name, AREA, "libvirt's daemon answers at qemu:///system.", answers=True)


def _tpm_makers(view: View) -> list[Finding]:
    """The keys that new TPMs' certificates are signed with. The folder is of the user that swtpm is to run as; libvirt
    looks that user up once, when it starts, and until then runs swtpm as root, whose keys nobody else may read."""
    name = "programs.tpm-keys"
    folder = view.files.path(TPM_MAKERS)
    try:
        owner = folder.stat()
        strange = [entry.name for entry in folder.iterdir() if entry.lstat().st_uid != owner.st_uid]
    except OSError:
        return []
    if not strange:
        return [ok(name, AREA, "TPMs of virtual machines can be made.", strange=[])]
    sentence = (
        "libvirt ran swtpm as root, as it was started before swtpm was installed: once restarted it can make no TPM."
    )
    fix = f"chown -R --reference={TPM_MAKERS} {TPM_MAKERS} && systemctl restart libvirtd"
    return [warning(name, AREA, sentence, fix, strange=sorted(strange), optional=True)]


def _bindings(view: View) -> Finding:
    name = "programs.bindings"
    if not view.live:
        return unknown(name, AREA, "Python bindings were not tried.")
    lacking = []
    for module in ("libvirt", "lxc"):
        try:
            bindings.load(module)
        except ImportError:
            lacking.append(module)
    if lacking:
        packages = " ".join(f"python3-{module}" for module in lacking)
        sentence = f"This Python cannot load the bindings of {' and '.join(lacking)}."
        fix = f"apt-get install -y --no-install-recommends {packages}"
        return missing(name, AREA, sentence, fix, lacking=lacking)
    return ok(name, AREA, "The distribution's Python bindings of libvirt and liblxc load.", lacking=[])
