"""Which hosts are who they say: SSH host keys and TLS certificates that were accepted once.

Two files below $XDG_CONFIG_HOME/triune (~/.config/triune): `known_hosts` in OpenSSH's form (`[host]:port type base64`,
so lines of ssh-keyscan may be put in), and `known_certificates` (`host:port sha256:HEX`). A host that is unknown is
refused with its fingerprint unless `--accept-new` was said; one whose key changed is refused always.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triune.domain.errors import Denied, Failed

_LARGEST = 4 << 20


def config_folder() -> Path:
    """Where this user's settings lie."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "triune"


class KnownHosts:
    """The two files in `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._folder or config_folder()

    def keys(self, host: str, port: int) -> list[str]:
        """The host's accepted SSH keys, each `type base64`."""
        return [" ".join(fields[1:3]) for fields in self._rows("known_hosts", f"[{host}]:{port}") if len(fields) > 2]

    def add_key(self, host: str, port: int, key: str) -> None:
        """Accept one, given as `type base64`."""
        self._append("known_hosts", f"[{host}]:{port} {' '.join(key.split()[:2])}")

    def certificate(self, host: str, port: int) -> str:
        """The accepted certificate's SHA-256 in hexadecimal; empty where there is none."""
        rows = [fields[1] for fields in self._rows("known_certificates", f"[{host}]:{port}") if len(fields) > 1]
        return rows[-1].removeprefix("sha256:").lower() if rows else ""

    def add_certificate(self, host: str, port: int, fingerprint: str) -> None:
        """Accept one."""
        self._append("known_certificates", f"[{host}]:{port} sha256:{fingerprint}")

    def changed(self, what: str, host: str, port: int, fingerprint: str, file: str) -> Denied:
        """The error for a host that is another one than before."""
        return Denied(
            "host_changed",
            f"the {what} of {host}:{port} is not the accepted one; now it is {fingerprint}",
            hint=f"Someone may be in between. If the host was set up anew, remove its line from {self.folder / file}.",
        )

    def unknown(self, what: str, host: str, port: int, fingerprint: str) -> Denied:
        """The error for a host seen for the first time."""
        return Denied(
            "host_unknown",
            f"the {what} of {host}:{port} is unknown: {fingerprint}",
            hint="Compare it with the host's own screen, then say --accept-new.",
        )

    def _rows(self, file: str, host: str) -> Iterator[list[str]]:
        bare = host[1:].removesuffix("]:22") if host.endswith("]:22") else ""
        try:
            with (self.folder / file).open("rb") as opened:
                text = opened.read(_LARGEST).decode(errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused(file, error) from None
        for line in text.splitlines():
            fields = line.split()
            if fields and any(name in (host, bare) for name in fields[0].lower().split(",") if name):
                yield fields

    def _append(self, file: str, line: str) -> None:
        """A line at the end, whole or not at all."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(file) as fd:
                size = os.fstat(fd).st_size
                ends = size == 0 or os.pread(fd, 1, size - 1) == b"\n"
                os.write(fd, (("" if ends else "\n") + line + "\n").encode())
                os.fsync(fd)
        except OSError as error:
            raise self._refused(file, error) from None

    @contextmanager
    def _locked(self, file: str) -> Iterator[int]:
        fd = os.open(self.folder / file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _refused(self, file: str, error: OSError) -> Failed:
        return Failed(
            "known_hosts_refused", f"{self.folder / file}: {error.strerror}", hint="Make it readable and writable."
        )
