"""What must differ between a container and its copy inside their file systems: machine-id and SSH host keys."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from triune.host.beneath import Root
from triune.host.run import run

_MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
_KEYS = "etc/ssh"
_KINDS = ("rsa", "ecdsa", "ed25519")


def renew(layer: Path, machine_id: str) -> None:
    """Renew them in a writable layer that nobody has mounted. What the image itself has is not in it and not touched;
    links are left alone."""
    with Root(layer) as root:
        for path in _MACHINE_IDS:
            if machine_id and _is_file(root, path) and root.stat(path, follow=False).st_size:
                root.write_bytes(path, f"{machine_id}\n".encode(), 0o444)
        for kind in _KINDS:
            path = f"{_KEYS}/ssh_host_{kind}_key"
            if _is_file(root, path):
                _renew_key(root, path, kind)


def _is_file(root: Root, path: str) -> bool:
    return root.exists(path, follow=False) and stat.S_ISREG(root.stat(path, follow=False).st_mode)


def _renew_key(root: Root, path: str, kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="triune-key-") as folder:
        made = Path(folder) / "key"
        run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", made])
        root.write_bytes(path, made.read_bytes(), 0o600)
        root.write_bytes(f"{path}.pub", made.with_suffix(".pub").read_bytes(), 0o644)
