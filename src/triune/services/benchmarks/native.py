"""The host itself as a subject: the same programs from the same root tree, with the same limits, and no engine.

What native is, exactly: a chroot into an overlay on the image's root tree, with the host's kernel, network (servers on
loopback), process numbers and users, in a control group of its own with the same CPU and memory limits. {folder} is a
plain folder of the disk that holds Triune's data, not the overlay. Without limits it is where clients run.

All its mounts are in a mount namespace of their own, held by a process that dies with this one: they never outlive us.
So is the network namespace of clients outside of the host, and with it the pair of interfaces that leads there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed, Unsupported
from triune.domain.limits import Limits
from triune.host import cgroup, overlay
from triune.host.beneath import remove_tree
from triune.host.cgroup_limits import settings
from triune.host.run import environment, run
from triune.services.benchmarks import memory
from triune.services.benchmarks.answering import answers
from triune.services.benchmarks.catalogue import filled
from triune.services.benchmarks.line import Line
from triune.services.benchmarks.subject import FOLDER, NATIVE, About, Output, Reached, Stored

PREFIX = "triune-bench-"
_LOOPBACK = "127.0.0.1"
# It waits for a line, so that it can be put into its group before anything of it runs.
_GATE = 'read -r go; exec "$@"'
_PATIENCE_S = 10.0


class Native:
    """`folder` is made, and removed at the end; `tree` is the image's; no `limits`: none.

    `served`: where its servers are reached from outside of the host. `line`: it is outside itself.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        tree: Path,
        service: Mapping[str, Any],
        limits: Limits | None,
        *,
        served: str = "",
        line: Line | None = None,
    ) -> None:
        self._served = served
        self._line = line
        self._folder = folder
        self._tree = tree
        self._service = service
        self._limits = limits
        self._group = PREFIX + name
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folders: list[Path] = []

    @property
    def about(self) -> About:
        """What it is."""
        what = "no engine: a chroot into the image's root tree on the host, its kernel and network, the same limits"
        return About(NATIVE, "native", what)

    @property
    def address(self) -> str:
        """The host's loopback."""
        return _LOOPBACK

    def open(self) -> None:
        """Make its root and group. Raises Unsupported("native_needs_root") or Failed."""
        if os.geteuid() != 0:
            raise Unsupported(
                "native_needs_root", "native figures are taken by root only", hint="Run it with sudo, or leave it out."
            )
        self._folders = make_group(self._group, self._limits) if self._limits else []
        for part in ("upper", "work", "root", "bench"):
            (self._folder / part).mkdir(parents=True)
        self._keeper = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
                *(("--net",) if self._line else ()),
                *("sleep", "infinity"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        self._entered()
        root = self._folder / "root"
        layers = overlay.options(self._tree, self._folder / "upper", self._folder / "work")
        self._within("mount", "-t", "overlay", "-o", layers, "triune-bench", root)
        for kind, place in (("proc", "proc"), ("tmpfs", "run"), ("tmpfs", "tmp")):
            self._within("mount", "-t", kind, kind, root / place)
        for place in ("dev", "sys"):
            self._within("mount", "--rbind", f"/{place}", root / place)
        self._within("mkdir", "-p", f"{root}{FOLDER}")
        self._within("mount", "--bind", self._folder / "bench", f"{root}{FOLDER}")
        if self._line is not None:
            self._line.lay(self._keeper.pid)

    def run(self, argv: Sequence[str], timeout: float) -> Output:
        """Run a command in it."""
        process = self._begin(argv, subprocess.PIPE)
        begun = time.monotonic()
        try:
            stdout, stderr = process.communicate(b"\n", timeout)
        except subprocess.TimeoutExpired:
            raise Failed(
                "command_timeout", f"{argv[0]} did not finish within {timeout:g} s", hint="Try it by hand."
            ) from None
        finally:
            _end(process)
        taken = time.monotonic() - begun
        return Output(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"), taken)

    def stored(self, form: str) -> Stored:
        """A file in the plain folder, whatever the form: what the forms are compared with."""
        del form
        return Stored(f"{FOLDER}/stored", self.run)

    def reached(self, way: str) -> Reached:
        """The host itself, whatever the way: what the ways are compared with."""
        del way
        if not self._served:
            raise Unsupported("no_line", "there is no network outside of the host", hint="Run it with sudo.")
        return Reached(self._served, self._served, self.run)

    def life(self, wanted: frozenset[str]) -> Mapping[str, float]:
        """A process instead of an instance: nothing boots, so there is no `ready`."""
        found = {"running": self.run(["/bin/true"], _PATIENCE_S).seconds}
        before = memory.processes()
        process = self._begin(filled(self._service["command"], {"bind": _LOOPBACK}), subprocess.DEVNULL)
        try:
            begun = time.monotonic()
            if process.stdin is not None:
                process.stdin.write(b"\n")
                process.stdin.close()
            if not answers(_LOOPBACK, self._service, _PATIENCE_S):
                raise Failed("service_silent", "the service did not answer natively", hint="Is its port in use?")
            found["answering"] = time.monotonic() - begun
            if "memory" in wanted:
                paid = memory.paid_by({process.pid}, before)
                if paid is not None:
                    found["memory"] = paid.mib
            begun = time.monotonic()
            process.terminate()
            process.wait(_PATIENCE_S)
            found["stop"] = time.monotonic() - begun
        finally:
            _end(process)
        return found

    def crowd(self, count: int) -> Mapping[str, float]:
        """There are no instances of it."""
        del count
        return {}

    def close(self) -> None:
        """End its processes, and remove what it made."""
        end_group(self._folders)
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait()
        if self._line is not None:
            self._line.remove()
        with contextlib.suppress(OSError):
            remove_tree(self._folder)

    def _begin(self, argv: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        """Start it behind the gate, and put it into its group."""
        process = subprocess.Popen(
            [*self._enter(), "sh", "-c", _GATE, "sh", "chroot", str(self._folder / "root"), *argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
        try:
            for folder in self._folders:
                (folder / "cgroup.procs").write_text(str(process.pid))
        except OSError as error:
            _end(process)
            raise Failed(
                "native_failed", f"the control group can't be joined: {error.strerror}", hint="See: triune doctor"
            ) from error
        return process

    def _entered(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        kinds = ("mnt", "net") if self._line else ("mnt",)
        own = [Path(f"/proc/self/ns/{kind}").readlink() for kind in kinds]
        while self._keeper is not None and self._keeper.poll() is None and time.monotonic() < deadline:
            found = [Path(f"/proc/{self._keeper.pid}/ns/{kind}").readlink() for kind in kinds]
            if all(one != other for one, other in zip(found, own, strict=True)):
                return
            time.sleep(0.002)
        raise Failed("native_failed", "no namespaces could be made on this host", hint="See: triune doctor")

    def _enter(self) -> list[str]:
        if self._keeper is None:
            return []
        kinds = {"mount": "mnt", **({"net": "net"} if self._line else {})}
        return ["nsenter", *(f"--{kind}=/proc/{self._keeper.pid}/ns/{file}" for kind, file in kinds.items()), "--"]

    def _within(self, *argv: str | Path) -> None:
        run([*self._enter(), *argv])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what may be left of it; its daemons live in sessions of their own, and stay."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def make_group(name: str, limits: Limits) -> list[Path]:
    """A control group with these limits of CPU and memory: its folder for each controller. Raises Failed."""
    mounted = cgroup.hierarchies()
    folders: dict[str, Path] = {}
    try:
        for key in limits.by_key():
            controller = "cpu" if key == "cpus" else "memory"
            version = mounted.version(controller)
            if version is None:
                raise Failed(
                    "native_failed",
                    f"this host's control groups have no {controller} controller",
                    hint="See: triune doctor",
                )
            parent = mounted.v1[controller] if version == 1 else mounted.v2 or Path("/sys/fs/cgroup")
            if version == 2:
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            folders[controller] = parent / name
            folders[controller].mkdir(exist_ok=True)
            for setting in settings(key, limits, version):
                if setting.file != "memory.memsw.limit_in_bytes":
                    (folders[controller] / setting.file).write_text(setting.value)
    except OSError as error:
        end_group(list(folders.values()))
        raise Failed(
            "native_failed", f"a control group for native runs can't be made: {error}", hint="See: triune doctor"
        ) from error
    return list(dict.fromkeys(folders.values()))


def end_group(folders: Sequence[Path]) -> None:
    """Kill everything in a group, and remove it. Idempotent."""
    for folder in folders:
        for _ in range(200):
            try:
                pids = (folder / "cgroup.procs").read_text().split()
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
                continue
            break


def leftovers(name: str) -> list[Path]:
    """Folders of groups that a run of this name left."""
    mounted = cgroup.hierarchies()
    places = {*mounted.v1.values(), *([mounted.v2] if mounted.v2 else [])}
    return [found for place in places for found in place.glob(f"{PREFIX}{name}*")]
