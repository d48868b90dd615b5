"""`mount` and `umount`: an instance's files as a folder here, by sshfs over `triune exec` instead of a network.

sshfs speaks SFTP over its standard streams (`-o passive`) with an `sftp-server` inside. Where the instance has none,
the host's own is lent to it for as long as it runs: it needs nothing but the C library.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import click

from triune.cli.options import complete_ends
from triune.cli.text import clean
from triune.domain.errors import Conflict, Failed, NotFound, TriuneError, Unsupported
from triune.domain.files import inside_path
from triune.host import treetar
from triune.host.fuse import release
from triune.host.run import run
from triune.sdk import Client

_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/openssh/sftp-server")
_FIND = 'for one in "$@"; do test -x "$one" && echo "$one" && exit; done; true'
# The name goes before the program begins: nothing of it is left inside, however it ends.
_LEND = 'exec 3<"$1" && rm -f -- "$1" && exec /proc/self/fd/3'
# Links are followed inside: here they could lead to the host's own files.
_OPTIONS = "passive,follow_symlinks,nosuid,nodev"
_PATIENCE = 30.0


@click.command()
@click.argument("source", metavar="NAME[:/PATH]", shell_complete=complete_ends)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--read-only", is_flag=True, help="Refuse changes.")
def mount(source: str, folder: Path, read_only: bool) -> None:
    """Show an instance's files as a folder here, until `triune umount DIR`.

    It needs sshfs here. The instance must run, and goes on to see its files as before.
    """
    name, _, path = source.partition(":")
    where = inside_path(path or "/")
    tool = shutil.which("sshfs")
    if tool is None:
        raise Unsupported("no_sshfs", "sshfs is not installed here", hint="Run: apt-get install sshfs")
    if not folder.is_dir():
        raise NotFound("no_folder", f"there is no folder {folder}", hint=f"Make it: mkdir -p {folder}")
    if folder.is_mount() or any(folder.iterdir()):
        raise Conflict("folder_in_use", f"{folder} is not an empty folder", hint="Give another one.")
    if not Client().instances.file_stat(name, where)["folder"]:
        raise Conflict("not_a_folder", f"{where} in {name} is no folder", hint="Name a folder.")
    options = _OPTIONS + (",ro" if read_only else "")
    _join([tool, "-o", f"{options},fsname=triune:{name}", f"{name}:{where}", str(folder)], _server(name), folder)
    print(clean(f"{name}:{where} is at {folder}; take it away: triune umount {folder}"))


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def umount(folder: Path) -> None:
    """Take a mounted instance's folder away."""
    release(folder)


def _inside(name: str, *argv: str) -> list[str]:
    return [sys.executable, "-m", "triune", "exec", name, "--", *argv]


def _server(name: str) -> list[str]:
    """The command that serves SFTP on its standard streams in the instance. Raises Unsupported."""
    # The daemon and how to reach it are the caller's choice: TRIUNE_HOST and its like.
    found = run(_inside(name, "sh", "-c", _FIND, "sh", *_SERVERS), check=False, env=os.environ)
    if found.status != 0:
        said = found.stderr.decode(errors="replace").strip().splitlines()
        raise Failed("mount_failed", f"{name}: {said[0] if said else 'no shell'}", hint=f"Try: triune shell {name}")
    if found.text.strip():
        return _inside(name, found.text.strip().splitlines()[0])
    own = next((Path(path) for path in _SERVERS if Path(path).is_file()), None)
    if own is None:
        raise Unsupported(
            "no_sftp_server",
            f"neither {name} nor this host has an sftp-server",
            hint="Run here or inside: apt-get install openssh-sftp-server",
        )
    lent = f"triune-sftp-{secrets.token_hex(6)}"
    parent = os.open(own.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        Client().instances.write_files(name, "/tmp", treetar.stream(parent, own.name, lent))  # noqa: S108 - inside
    finally:
        os.close(parent)
    return _inside(name, "sh", "-c", _LEND, "sh", f"/tmp/{lent}")  # noqa: S108 - inside


def _join(sshfs: Sequence[str], server: Sequence[str], folder: Path) -> None:
    """Connect the two, and leave them when the folder is there. Raises Failed."""
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as said:
        serving, showing = (
            subprocess.Popen(argv, stdin=end.fileno(), stdout=end.fileno(), stderr=said, start_new_session=True)
            for argv, end in ((server, theirs), (sshfs, ours))
        )
        ours.close()
        theirs.close()
        deadline = time.monotonic() + _PATIENCE
        while not folder.is_mount():
            if showing.poll() is not None or serving.poll() is not None or time.monotonic() > deadline:
                for process in (showing, serving):
                    process.terminate()
                    process.wait(10)
                raise _failed(folder, said)
            time.sleep(0.02)


def _failed(folder: Path, said: IO[bytes]) -> TriuneError:
    said.seek(0)
    lines = said.read(4096).decode(errors="replace").strip().splitlines()
    return Failed(
        "mount_failed",
        f"{folder} could not be mounted: {lines[-1] if lines else 'sshfs gave no reason'}",
        hint="Where the instance's C library is not the host's, install inside: openssh-sftp-server",
    )
