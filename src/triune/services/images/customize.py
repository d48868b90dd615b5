"""What makes a freshly installed tree an image: our files, which units run, and nothing that must be unique."""

from __future__ import annotations

import os
import stat
import uuid
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from triune.host.beneath import Root, remove_tree
from triune.host.run import run
from triune.services.images.options import BuildOptions
from triune.services.images.releases import Release

ROOT_LABEL = "triune-root"
ESP_LABEL = "triune-esp"
ENTRY_TOKEN = "triune"  # noqa: S105 - systemd's word for the prefix of boot entries
_CONSOLE = "console=tty0 console=ttyS0 net.ifnames=0 quiet"
_NAMESPACE = uuid.UUID("5f3d3c1e-4d5b-4b8c-9a57-3b7a3a0b6f11")

_ENABLED = (
    "systemd-networkd.service",
    "systemd-resolved.service",
    "qemu-guest-agent.service",
    "triune-grow.service",
    "triune-name.service",
)
# Nothing waits for the network; and many instances would all run the package timers at once.
_DISABLED = (
    "systemd-networkd-wait-online.service",
    "systemd-network-generator.service",
    "e2scrub_reap.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)
# File systems few programs need: they cost a process each at every boot, and some can't be mounted in a container.
# systemd-repart is run by triune-grow, when there is room to grow into; the rest load modules nobody asked for.
_MASKED = (
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
    "systemd-repart.service",
    "systemd-pstore.service",
)

# Contents of these folders, and these files, differ from build to build or must differ from instance to instance.
_EMPTIED = ("tmp", "run", "var/tmp", "var/log", "var/cache/apt", "var/cache/debconf", "var/lib/apt/lists", "dev")
_REMOVED = (
    "etc/hostname",
    "etc/.pwd.lock",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
)


def identifier(release: Release, options: BuildOptions, what: str) -> uuid.UUID:
    """A UUID for a part of the image: the same in every build of the same request."""
    return uuid.uuid5(_NAMESPACE, f"{release.name} {options.as_dict()} {what}")


def own_cmdline(release: Release, options: BuildOptions) -> str:
    """The kernel command line of a disk that boots by its own loader."""
    return f"root=PARTUUID={identifier(release, options, 'root')} rw {_CONSOLE}"


def direct_cmdline() -> str:
    """The kernel command line of a direct kernel boot."""
    return f"root=PARTLABEL={ROOT_LABEL} rw {_CONSOLE}"


def customize(tree: Path, release: Release, options: BuildOptions, packages: dict[str, str]) -> None:
    """Turn the tree into the image's. `packages` are those installed, with their versions."""
    files = resources.files(__package__) / "files"
    units = list(_ENABLED)
    with Root(tree) as root:
        _copy(files / "late", root, "")
        if "openssh-server" in packages:
            _copy(files / "ssh", root, "")
            units.append("triune-ssh-keys.service")
        if "cloud-init" in packages:
            _copy(files / "cloud-init", root, "")
        root.mkdirs("efi", 0o755)
        root.write_bytes(
            "etc/fstab",
            f"PARTLABEL={ESP_LABEL} /efi vfat umask=0077,noauto,nofail,x-systemd.automount 0 0\n".encode(),
        )
        # What kernel-install needs to add a boot entry when the kernel is upgraded inside.
        root.write_bytes("etc/kernel/cmdline", f"{own_cmdline(release, options)}\n".encode())
        root.write_bytes("etc/kernel/entry-token", f"{ENTRY_TOKEN}\n".encode())
        root.write_bytes("etc/hosts", b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
        for unit in _MASKED:
            root.symlink(f"etc/systemd/system/{unit}", "/dev/null")
    known = [unit for unit in (*_DISABLED, *options.disabled) if _has_unit(tree, unit)]
    run(["chroot", tree, "systemctl", "--quiet", "enable", *units])
    run(["chroot", tree, "systemctl", "--quiet", "disable", *known])
    if "openssh-server" in packages:
        for key in (tree / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
    _forget(tree, release, options)


def installed(tree: Path) -> dict[str, str]:
    """Packages in the tree and their versions."""
    text = run(["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", "${Package}\\t${Version}\\n"]).text
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


def _copy(source: Traversable, root: Root, path: str) -> None:
    for entry in sorted(source.iterdir(), key=lambda entry: entry.name):
        target = f"{path}/{entry.name}"
        if entry.is_dir():
            root.mkdirs(target)
            _copy(entry, root, target)
        else:
            data = entry.read_bytes()
            root.write_bytes(target, data, 0o755 if data.startswith(b"#!") else 0o644)


def _has_unit(tree: Path, unit: str) -> bool:
    return any((tree / folder / unit).exists() for folder in ("lib/systemd/system", "usr/lib/systemd/system"))


def _forget(tree: Path, release: Release, options: BuildOptions) -> None:
    for folder in _EMPTIED:
        if (tree / folder).is_dir():
            for entry in (tree / folder).iterdir():
                _remove_below_log(entry) if folder == "var/log" else _remove(entry)
    for name in _REMOVED:
        (tree / name).unlink(missing_ok=True)
    with Root(tree) as root:
        # Empty, not missing: a missing one would make every first boot set up all units anew.
        root.write_bytes("etc/machine-id", b"", 0o444)
        root.symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        if not options.hostname_from_instance:
            root.write_bytes("etc/hostname", f"{release.distribution}\n".encode())
        # Stamps newer than /usr: nothing has to be regenerated at the first boot.
        for stamp in ("etc/.updated", "var/.updated"):
            root.write_bytes(stamp, b"")
    tree.chmod(0o755)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        remove_tree(entry)
    else:
        entry.unlink()


def _remove_below_log(entry: Path) -> None:
    # Programs expect the folders they log into; only what is in them goes.
    if stat.S_ISDIR(entry.lstat().st_mode):
        for folder, _, names in os.walk(entry):
            for name in names:
                Path(folder, name).unlink()
    else:
        entry.unlink()
