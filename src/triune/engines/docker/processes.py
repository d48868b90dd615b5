"""The running state of a container: its processes, written down by CRIU through Docker, and going on from there.

Docker keeps such a checkpoint in the container's own folder and starts only that container from it. So ours is moved to
the snapshot, and put into the folder of the container that a restore makes. While CRIU writes, and until the files are
copied, the container is paused: memory and files are of one instant, and it is never stopped.

Some Docker engines take a checkpoint's name and then start the container from the beginning without a word. Processes
that go on have their stack where it was, and new ones have not: that is looked at.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from triune.domain.errors import Conflict, Failed, TriuneError, Unsupported
from triune.engines.docker.client import DockerClient
from triune.engines.docker.containers import Described, describe
from triune.host import criu
from triune.host.beneath import disk_usage, remove_tree
from triune.host.copytree import copy_tree

_FOLDER = "processes"
_FACTS = "processes.json"
_LOG = re.compile(r"(?:path= ?|log file: )(/[^\s:]+\.log)")
_THERE_ALREADY = re.compile(r"content sha256:\w+: already exists")
_FORGOTTEN = 15.0
_POLL = 0.5
_RUNC = frozenset({"", "runc", "crun", "io.containerd.runc.v1", "io.containerd.runc.v2"})
_PARENT, _STACK, _BRK = 1, 25, 44  # proc(5), fields 4, 28 and 47, counted after the name


class Processes:
    """Checkpoints of containers, each called after the folder of its snapshot."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def why_not(self) -> str | None:
        """Why not on this host; None where it can be done. Raises Unreachable."""
        info = self._client.read(lambda api: api.info())
        return criu.why_not(info, self._client.socket_path)

    def require(self, found: Described) -> None:
        """Raise Unsupported("no_memory_snapshot") or Conflict("instance_not_running") with the reason."""
        name = _name(found)
        runtime = str((found.get("HostConfig") or {}).get("Runtime") or "")
        reason = self.why_not()
        if reason is None and runtime not in _RUNC:
            reason = f"it runs under {runtime}, and CRIU sees processes of runc only"
        if reason is None and found["Config"].get("Tty"):
            reason = "it was made with a terminal (tty), which Docker can't keep"
        if reason is not None:
            raise Unsupported(
                "no_memory_snapshot",
                f"the running state of {name} can't be kept: {reason}",
                hint=f"Take one of its disk alone: triune snapshot create {name}",
            )
        if not found["State"].get("Running"):
            raise Conflict(
                "instance_not_running",
                f"{name} is stopped, so there is no running state to keep",
                hint=f"Start it (triune start {name}), or leave out --memory.",
            )

    def write(self, found: Described, folder: Path) -> int:
        """Write down the processes of a paused container, which stays paused, for the snapshot of this folder.

        Returns their size on disk. Raises Failed("processes_not_kept") with what CRIU minds.
        """
        container = str(found["Id"])
        self.drop(container, folder)
        place = _place(found)
        if place is None:
            raise _refused(_name(found), "its first process has ended")
        (folder / _FACTS).write_text(json.dumps({"place": place, "bundles": _bundles(found)}))
        deadline = time.monotonic() + _FORGOTTEN
        while True:
            try:
                self._client.post(
                    f"/containers/{container}/checkpoints", body={"CheckpointID": _label(folder), "Exit": False}
                )
                break
            except (Failed, Conflict) as error:
                # containerd writes nothing twice, and forgets a moment later what an attempt that was cut off left.
                if not _THERE_ALREADY.search(error.message) or time.monotonic() > deadline:
                    raise _refused(_name(found), _said(error)) from error
            time.sleep(_POLL)
            self.drop(container, folder)
        return disk_usage(self._checkpoint(container, folder)) or 0

    def fetch(self, found: Described, folder: Path, check: Callable[[], None]) -> None:
        """Move what was written to the snapshot's folder."""
        source = self._checkpoint(str(found["Id"]), folder)
        try:
            source.rename(folder / _FOLDER)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy_tree(source, folder / _FOLDER, check)
            remove_tree(source)

    def go_on(self, name: str, container: str, folder: Path) -> None:
        """Let a container that was never started go on from the snapshot of this folder.

        Raises Failed("processes_not_restored"): it may run then, and is the caller's to end.
        """
        target = self._checkpoint(container, folder)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy_tree(folder / _FOLDER, target)
        # Docker hands it to containerd, which refuses a content that it has already, as of an earlier restore.
        (target / "triune").write_text(secrets.token_hex(16))
        facts = json.loads((folder / _FACTS).read_text())
        log = criu.Overheard(Path(facts["bundles"]) / container / "work/restore.log")
        try:
            self._client.post(f"/containers/{container}/start", query={"checkpoint": _label(folder)})
        except TriuneError as error:
            complaint = log.close()
            raise _not_restored(name, f"CRIU says: {complaint}" if complaint else error.message) from error
        finally:
            log.close()
            self.drop(container, folder)
        found = describe(self._client, name)
        place = _place(found)
        if place is None:
            raise _not_restored(name, f"they ended at once, with status {found['State'].get('ExitCode')}")
        if place != facts["place"]:
            raise _not_restored(name, "this Docker engine starts a container from the beginning instead")

    def drop(self, container: str, folder: Path) -> None:
        """Remove what is left of it in the container's own folder. Gone: succeed."""
        left = self._checkpoint(container, folder)
        if left.is_dir():
            remove_tree(left)

    def _checkpoint(self, container: str, folder: Path) -> Path:
        root = self._client.read(lambda api: api.info()).get("DockerRootDir") or "/var/lib/docker"
        return Path(str(root)) / "containers" / container / "checkpoints" / _label(folder)


def _name(found: Described) -> str:
    return str(found["Name"]).removeprefix("/")


def _label(folder: Path) -> str:
    return f"triune-{folder.name}"


def _place(found: Described) -> list[int] | None:
    """Where stack and heap of its first process begin: random for each start, and kept by CRIU. None: it has ended."""
    try:
        words = Path(f"/proc/{found['State']['Pid']}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return [int(words[_STACK]), int(words[_BRK])]


def _bundles(found: Described) -> str:
    """Where containerd keeps what belongs to each running container: its shim, whose child it is, works there."""
    try:
        stat = Path(f"/proc/{found['State']['Pid']}/stat").read_text().rpartition(")")[2].split()
        return str(Path(f"/proc/{stat[_PARENT]}/cwd").readlink().parent)
    except OSError:
        return "/run/containerd/io.containerd.runtime.v2.task/moby"


def _said(error: TriuneError) -> str:
    found = _LOG.search(error.message)
    complaint = criu.complaint_of(Path(found.group(1))) if found else None
    return f"CRIU says: {complaint}" if complaint else error.message


def _refused(name: str, said: str) -> Failed:
    return Failed(
        "processes_not_kept",
        f"the processes of {name} can't be kept: {said}",
        hint="Let it end what CRIU minds, or leave out --memory.",
    )


def _not_restored(name: str, said: str) -> Failed:
    return Failed(
        "processes_not_restored",
        f"the processes of {name} could not go on from the snapshot: {said}",
        hint=f"{name} is as it was before. The snapshot's files alone: triune clone {name} NEW --snapshot …",
    )
