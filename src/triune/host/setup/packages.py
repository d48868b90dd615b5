"""The system packages, by the distribution's own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triune.domain.errors import Unsupported
from triune.host.setup.machine import Machine
from triune.host.setup.step import Say

# Debian 12's names. Why, where the name does not tell:
_COMMON = (
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "ovmf",
    "libvirt-daemon-system",
    "libvirt-clients",
    "python3-libvirt",
    "dnsmasq-base",
    "lxc",
    "python3-lxc",
    "lxcfs",  # containers see their limits as the machine's size
    "uidmap",  # newuidmap and /etc/subuid's tools
    "mmdebstrap",  # builds root trees
    "nftables",
    "iptables",  # other firewalls' rules are read and opened through it
    "iproute2",
    "e2fsprogs",  # file systems of disks made without root
    "btrfs-progs",  # pools with snapshots and quotas
    "dosfstools",
    "mtools",  # EFI partitions made without mounting
    "fdisk",  # sfdisk: partition tables
    "xorriso",  # seed images with user data
    "skopeo",  # OCI archives into a Docker engine that does not read them itself
    "restic",  # the repository of backups
    "sshfs",  # instances' files as a folder of the host
    "openssh-sftp-server",  # lent to instances that have none
    "openssh-client",  # repositories on other hosts
    "xz-utils",
    "zstd",
    "ca-certificates",
)
_DOCKER = "docker.io"
# Other builds of the Docker engine; with one of them docker.io would be in conflict.
_OTHER_DOCKERS = ("docker-ce", "moby-engine", "docker-ee")
# What Ubuntu 24.04 calls otherwise or lacks: (taken out, put in).
_DIFFERENCES: Mapping[str, tuple[frozenset[str], tuple[str, ...]]] = {
    "debian": (frozenset(), ()),
    "ubuntu": (frozenset({"lxc"}), ("lxc-utils", "debian-archive-keyring")),
}
_APT_SECONDS = 1800


def parse_os_release(text: str) -> dict[str, str]:
    """Parse os-release(5): `KEY=value`, the value perhaps in quotes. Wrong lines are skipped. Never raises."""
    values = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            values[key] = value
    return values


def family(os_release: str) -> str | None:
    """`debian` or `ubuntu`, also for what derives from them; None for anything else."""
    values = parse_os_release(os_release)
    likes = [values.get("ID", ""), *values.get("ID_LIKE", "").split()]
    return next((name for name in likes if name in _DIFFERENCES), None)


def separate_virtiofsd(os_release: str) -> bool:
    """Whether virtiofsd, which volumes in VMs need, is a package of its own: QEMU had it until Debian 12."""
    values = parse_os_release(os_release)
    since = {"debian": 13, "ubuntu": 24}.get(values.get("ID", ""))
    version = values.get("VERSION_ID", "").partition(".")[0]
    return since is not None and version.isdecimal() and int(version) >= since


def wanted(kind: str, *, docker: bool, apparmor: bool, virtiofsd: bool = False, systemd: bool = True) -> list[str]:
    """The package names for a family. `docker` False where another Docker engine is there already."""
    without, extra = _DIFFERENCES[kind]
    names = [name for name in _COMMON if name not in without]
    optional = ((_DOCKER, docker), ("apparmor", apparmor), ("virtiofsd", virtiofsd), ("tini", not systemd))
    return [*names, *extra, *(name for name, asked in optional if asked)]


def parse_installed(text: str) -> frozenset[str]:
    """Names from lines `installed NAME`, as dpkg-query prints db:Status-Status and Package. Never raises."""
    words = (line.split() for line in text.splitlines())
    return frozenset(pair[1] for pair in words if len(pair) == 2 and pair[0] == "installed")


@dataclass(slots=True)
class Packages:
    """Everything the engines and the network are made of."""

    machine: Machine
    title: str = "System packages"
    needed: bool = True

    def lacking(self) -> list[str]:
        """The packages that are not installed. Raises Unsupported on another distribution."""
        os_release = self.machine.files.text("/etc/os-release") or ""
        kind, virtiofsd = family(os_release), separate_virtiofsd(os_release)
        if kind is None or self.machine.tools.find("dpkg-query") is None:
            raise Unsupported(
                "distribution_unknown",
                "this is neither Debian nor Ubuntu, so setup does not know the names of its packages",
                hint="Install QEMU, libvirt, LXC, Docker, dnsmasq and mmdebstrap, then run: triune doctor",
            )
        apparmor = (self.machine.files.text("/sys/module/apparmor/parameters/enabled") or "").strip() == "Y"
        host = {"apparmor": apparmor, "virtiofsd": virtiofsd, "systemd": self.machine.systemd}
        names = wanted(kind, docker=True, **host)
        result = self.machine.tools.run(
            "dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *names, *_OTHER_DOCKERS, timeout=20
        )
        installed = parse_installed(result.text if result else "")
        has_docker = bool(installed & set(_OTHER_DOCKERS)) or self.machine.tools.find("dockerd") is not None
        names = wanted(kind, docker=not has_docker, **host)
        return [name for name in names if name not in installed]

    def gap(self) -> str | None:
        """The packages to install, by name."""
        lacking = self.lacking()
        return f"install {' '.join(lacking)}" if lacking else None

    def fill(self, say: Say) -> None:
        """Install them, without recommended ones; apt's lists are fetched first."""
        install(self.machine, self.lacking(), say)


def install(machine: Machine, names: Sequence[str], say: Say) -> None:
    """Install packages by apt, without recommended ones; its lists are fetched first."""
    env = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    lock = ("-o", "DPkg::Lock::Timeout=300")
    say("do", "Fetching apt's package lists")
    machine.run("apt-get", "update", "-q", *lock, timeout=_APT_SECONDS, env=env)
    say("do", f"Installing {len(names)} packages; this may take some minutes")
    keep = ("-o", "Dpkg::Options::=--force-confold")
    machine.run(
        *("apt-get", "install", "-q", "-y", "--no-install-recommends", *lock, *keep, "--", *names),
        timeout=_APT_SECONDS,
        env=env,
    )
