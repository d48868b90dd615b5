"""A real registry on loopback, open or private."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from tests.patience import PATIENCE
from triune.engines.base import Credentials

GOOD = Credentials(username="tdoc", password="correct horse")
# bcrypt of the above; the registry takes no other kind of hash.
HTPASSWD = "tdoc:$2y$05$jYXvj5PPhLR/zJlDt8atZ.4PfW47e4E0fAQWRR2WQQz0tSVD9ftjW\n"


def free_port() -> int:
    """A port of loopback that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def serve(folder: Path, data: Path, *, private: bool) -> tuple[subprocess.Popen[bytes], str]:
    """Start a registry whose content is in `data`; returns it and its HOST:PORT. `private` ones let in GOOD only."""
    port = free_port()
    lines = [
        "version: 0.1",
        f"storage: {{filesystem: {{rootdirectory: {data}}}}}",
        f'http: {{addr: "127.0.0.1:{port}"}}',
    ]
    if private:
        (folder / "htpasswd").write_text(HTPASSWD)
        lines.append(f"auth: {{htpasswd: {{realm: tdoc, path: {folder / 'htpasswd'}}}}}")
    config = folder / f"registry-{port}.yml"
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return process, f"127.0.0.1:{port}"
