"""A virtual machine run by QEMU alone, emulated: to look at a disk without any engine of ours."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class BareVm:
    """Boots a disk on an overlay of its own; ends with the `with` block, or by itself after `limit` seconds."""

    def __init__(self, folder: Path, disk: Path, *extra: str, size: str | None = None, limit: int = 150) -> None:
        self._folder = folder
        self._serial = folder / "serial.log"
        self._agent = folder / "agent.sock"
        self._socket: socket.socket | None = None
        overlay = folder / "overlay.qcow2"
        more = [size] if size else []
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "qcow2", str(overlay), *more], check=True
        )
        argv = ["timeout", str(limit), "qemu-system-x86_64", "-accel", "tcg,tb-size=256", "-M", "q35", "-cpu", "max"]
        argv += ["-m", "512", "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot"]
        argv += ["-drive", f"if=none,id=disk,file={overlay},format=qcow2,cache=unsafe"]
        argv += ["-serial", f"file:{self._serial}", "-device", "virtio-rng-pci"]
        argv += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=ga,path={self._agent},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"]
        argv += ["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net", *extra]
        self.begun = time.monotonic()
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()
        self._process.terminate()
        self._process.communicate()

    def serial(self) -> str:
        """All the serial console has said."""
        return self._serial.read_text(errors="replace") if self._serial.exists() else ""

    def wait_for_login(self) -> float:
        """Seconds from the start to a login prompt on the serial console."""
        return self._wait(lambda: "login:" in self.serial())

    def wait_for_agent(self) -> float:
        """Seconds from the start to the guest agent's first answer."""
        return self._wait(lambda: self._ask("guest-ping") is not None)

    def _wait(self, done: Any) -> float:
        while not done():
            assert self._process.poll() is None, f"the machine ended: {self.serial()[-2000:]}"
            time.sleep(0.05)
        return time.monotonic() - self.begun

    def run(self, script: str) -> str:
        """What a shell script in the guest prints."""
        self._drain()
        arguments = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
        pid = self._ask("guest-exec", arguments, timeout=30)["pid"]
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status = self._ask("guest-exec-status", {"pid": pid}, timeout=30)
            if status["exited"]:
                return base64.b64decode(status.get("out-data", "")).decode()
            time.sleep(0.1)
        raise AssertionError(f"{script} did not end")

    def _drain(self) -> None:
        """Answers to earlier pings may still be under way."""
        assert self._socket is not None
        self._socket.settimeout(1.0)
        try:
            while self._socket.recv(65536):
                pass
        except TimeoutError:
            return

    def _ask(self, command: str, arguments: dict[str, Any] | None = None, timeout: float = 1.0) -> Any:
        try:
            if self._socket is None:
                fresh = socket.socket(socket.AF_UNIX)
                fresh.connect(str(self._agent))
                self._socket = fresh
            self._socket.settimeout(timeout)
            question = {"execute": command, **({"arguments": arguments} if arguments else {})}
            self._socket.sendall(json.dumps(question).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += self._socket.recv(65536)
        except OSError:
            return None
        return json.loads(answer.splitlines()[-1])["return"]


def firmware(folder: Path) -> list[str]:
    """QEMU's arguments for UEFI with variables of its own."""
    variables = folder / "variables.fd"
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
    code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"
    return ["-drive", code, "-drive", f"if=pflash,format=raw,file={variables}"]
