"""What makes a new container itself before its first start: name, addresses, machine id, host keys, user data.

The tree may be hostile (an imported image with /etc a link to the host's): everything goes through
`host.beneath`, and a path that leads nowhere sensible fails the launch instead of being followed.
"""

from __future__ import annotations

import errno
import fnmatch
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed
from triune.domain.image import TreeForm
from triune.domain.names import single_line
from triune.engines.lxc.mark import Card, Mark
from triune.host.beneath import Root

_UNITS = "etc/systemd/system"
CLOUD_SEED = "var/lib/cloud/seed/nocloud"
# These mount the kernel's own file systems, which a user namespace may not.
MASKED = ("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount")
_KEYS_UNIT = """\
[Unit]
Description=Make the SSH host keys of this container
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
Before=ssh.service sshd.service ssh.socket sshd.socket

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
"""


def seed(rootfs: Path, name: str, mark: Mark, user_data: str | None, form: TreeForm) -> None:
    """Write the identity into the mounted root. Raises Failed("hostile_tree")."""
    with _opened(rootfs, name, mark) as root:
        root.mkdirs("etc")
        if not form.fixed_hostname:
            root.write_bytes("etc/hostname", f"{single_line(name, 'The name')}\n".encode())
        _write_names(root, name, mark.cards)
        _write_machine_id(root, mark.machine_id)
        if _has_systemd(root):
            _write_systemd(root, mark)
        _hide_host_keys(root)
        if form.cloud_init:
            _write_cloud_seed(root, None if form.fixed_hostname else name, mark, user_data)


def reseed(rootfs: Path, name: str, old: str, before: Mark, mark: Mark) -> None:
    """Make a copy of another container (`old`, with the mark `before`) itself; what its users wrote stays.

    Its host name, addresses, machine id and SSH host keys become its own. Raises Failed("hostile_tree").
    """
    with _opened(rootfs, name, mark) as root:
        root.mkdirs("etc")
        root.write_bytes("etc/hostname", f"{single_line(name, 'The name')}\n".encode())
        _replace_line(root, "etc/hosts", own_line(old, before.cards), own_line(name, mark.cards))
        if _read(root, "etc/resolv.conf") == resolver(before.cards) and mark.cards:
            root.write_bytes("etc/resolv.conf", resolver(mark.cards))
        _write_machine_id(root, mark.machine_id)
        if _has_systemd(root):
            for index in range(len(mark.cards), len(before.cards)):
                root.unlink(_networkd_path(index))
            _write_systemd(root, mark)
        # Copies that begin with the same seed would draw the same numbers.
        root.unlink("var/lib/systemd/random-seed")
        _hide_host_keys(root)
        if root.exists(f"{CLOUD_SEED}/meta-data"):
            _write_cloud_facts(root, name, mark)


def readdress(rootfs: Path, name: str, old: str, before: Mark, mark: Mark) -> None:
    """Give a container that was put back under another name or with other addresses these; all else stays."""
    with _opened(rootfs, name, mark) as root:
        if _read(root, "etc/hostname").strip() == old.encode():
            root.write_bytes("etc/hostname", f"{single_line(name, 'The name')}\n".encode())
        _replace_line(root, "etc/hosts", own_line(old, before.cards), own_line(name, mark.cards))
        if _read(root, "etc/resolv.conf") == resolver(before.cards) and mark.cards:
            root.write_bytes("etc/resolv.conf", resolver(mark.cards))
        if _has_systemd(root):
            _write_systemd(root, mark)


def _has_systemd(root: Root) -> bool:
    return root.exists("usr/lib/systemd/systemd") or root.exists("lib/systemd/systemd")


@contextmanager
def _opened(rootfs: Path, name: str, mark: Mark) -> Iterator[Root]:
    """The root, its errors told as what they mean."""
    base = mark.id_map.base if mark.id_map and not mark.whole else 0
    try:
        with Root(rootfs, owner=(base, base)) as root:
            yield root
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failed("disk_full", f"no space is left for {name}", hint="Make room, and repeat.") from None
        raise Failed(
            "hostile_tree",
            f"the image's tree can't be given to {name}: {error.filename or rootfs}: {error.strerror}",
            hint="The image is damaged or hostile; build or import it again.",
        ) from None


def _write_names(root: Root, name: str, cards: tuple[Card, ...]) -> None:
    root.write_bytes("etc/hosts", hosts(name, cards).encode())
    if cards:
        root.write_bytes("etc/resolv.conf", resolver(cards))


def resolver(cards: tuple[Card, ...]) -> bytes:
    """The text of /etc/resolv.conf; empty without a card."""
    if not cards:
        return b""
    lines = [f"nameserver {cards[0].gateway}", f"search {single_line(cards[0].domain, 'The domain')}"]
    return "\n".join([*lines, ""]).encode()


def hosts(name: str, cards: tuple[Card, ...]) -> str:
    """The text of /etc/hosts."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines.append(own_line(name, cards))
    return "\n".join([*lines, ""])


def own_line(name: str, cards: tuple[Card, ...]) -> str:
    """The line of /etc/hosts that tells the container's own name."""
    if cards:
        return f"{cards[0].address}\t{name}.{cards[0].domain} {name}"
    return f"127.0.1.1\t{name}"


def _write_machine_id(root: Root, machine_id: str) -> None:
    if not machine_id:
        return
    data = f"{single_line(machine_id, 'The machine id')}\n".encode()
    root.write_bytes("etc/machine-id", data, 0o444)
    # On most systems a link to the former; where it is a file, it is a second copy.
    if root.exists("var/lib/dbus/machine-id", follow=False):
        root.write_bytes("var/lib/dbus/machine-id", data, 0o444)


def _write_systemd(root: Root, mark: Mark) -> None:
    root.mkdirs(_UNITS)
    if mark.id_map:
        for unit in MASKED:
            root.symlink(f"{_UNITS}/{unit}", "/dev/null")
    if root.exists("usr/lib/systemd/systemd-networkd") or root.exists("lib/systemd/systemd-networkd"):
        root.mkdirs("etc/systemd/network")
        for index, card in enumerate(mark.cards):
            text = networkd(index, card)
            root.write_bytes(_networkd_path(index), text.encode())


def _networkd_path(index: int) -> str:
    return f"etc/systemd/network/05-triune-eth{index}.network"


def networkd(index: int, card: Card) -> str:
    """A systemd.network(5) unit for an address that is there already: networkd keeps it and asks no DHCP server."""
    lines = ["[Match]", f"Name=eth{index}", "", "[Network]", f"Address={card.address}/{card.prefix}"]
    if index == 0:
        lines += [f"Gateway={card.gateway}", f"DNS={card.gateway}", f"Domains={card.domain}"]
    lines += ["KeepConfiguration=static", "LinkLocalAddressing=no", "IPv6AcceptRA=no"]
    return "\n".join([*(single_line(line, "The network unit") for line in lines), ""])


def _hide_host_keys(root: Root) -> None:
    """Host keys that came with the tree are everybody's: remove them here, and have systemd make new ones."""
    try:
        names = root.names("etc/ssh")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    keys = fnmatch.filter(names, "ssh_host_*_key*")
    if keys and root.exists("usr/bin/ssh-keygen"):
        wants = f"{_UNITS}/multi-user.target.wants"
        root.mkdirs(wants)
        root.write_bytes(f"{_UNITS}/triune-ssh-host-keys.service", _KEYS_UNIT.encode())
        root.symlink(f"{wants}/triune-ssh-host-keys.service", f"/{_UNITS}/triune-ssh-host-keys.service")
    # Last: whoever is cut off here and begins again finds out by the keys that there is something to do.
    for key in keys:
        root.unlink(f"etc/ssh/{key}")


def _write_cloud_seed(root: Root, name: str | None, mark: Mark, user_data: str | None) -> None:
    """Cloud-init's NoCloud source; its files are YAML, of which JSON is a part."""
    root.mkdirs(CLOUD_SEED)
    root.write_bytes(f"{CLOUD_SEED}/user-data", (user_data or "#cloud-config\n{}\n").encode(), 0o600)
    _write_cloud_facts(root, name, mark)


def _write_cloud_facts(root: Root, name: str | None, mark: Mark) -> None:
    """What cloud-init tells one instance from another by: a new instance id makes it run once more."""
    meta = {"instance-id": mark.machine_id or str(name)} | ({"local-hostname": name} if name else {})
    root.write_bytes(f"{CLOUD_SEED}/meta-data", _json(meta), 0o600)
    root.write_bytes(f"{CLOUD_SEED}/network-config", _json(_netplan(mark.cards)), 0o600)


def _netplan(cards: tuple[Card, ...]) -> dict[str, Any]:
    """Network configuration, version 2."""
    ethernets: dict[str, Any] = {}
    for index, card in enumerate(cards):
        ethernets[f"eth{index}"] = {"addresses": [f"{card.address}/{card.prefix}"]}
        if index == 0:
            ethernets["eth0"] |= {
                "routes": [{"to": "0.0.0.0/0", "via": card.gateway}],
                "nameservers": {"addresses": [card.gateway], "search": [card.domain]},
            }
    return {"version": 2, "ethernets": ethernets}


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def rename(rootfs: Path, old: str, new: str, mark: Mark) -> None:
    """Change the name that `seed` wrote; what the guest wrote itself stays. Raises Failed("hostile_tree")."""
    base = mark.id_map.base if mark.id_map and not mark.whole else 0
    try:
        with Root(rootfs, owner=(base, base)) as root:
            if _read(root, "etc/hostname").strip() == old.encode():
                root.write_bytes("etc/hostname", f"{new}\n".encode())
            _replace_line(root, "etc/hosts", own_line(old, mark.cards), own_line(new, mark.cards))
    except OSError as error:
        raise Failed(
            "hostile_tree",
            f"the name inside {new} can't be changed: {error.filename or rootfs}: {error.strerror}",
            hint="Set it inside: hostnamectl set-hostname",
        ) from None


def _replace_line(root: Root, path: str, old: str, new: str) -> None:
    lines = _read(root, path).split(b"\n")
    if old.encode() in lines:
        changed = (new.encode() if line == old.encode() else line for line in lines)
        root.write_bytes(path, b"\n".join(changed))


def _read(root: Root, path: str) -> bytes:
    try:
        return root.read_bytes(path)
    except OSError:
        return b""
