"""An SSH server in this process that behaves as an ESXi host's: images as devices, by SFTP and by `dd`."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from tests.patience import PATIENCE

DEVICES = "/vmfs/devices/disks"
USER, PASSWORD = "root", "s3cret-Word"


@dataclass
class Manners:
    """How the host misbehaves. Counts are of requests; 0 is never."""

    devices: dict[str, Path] = field(default_factory=dict)
    sftp: bool = True
    limits: int = 0
    drop_every: int = 0
    drops_left: int = 1 << 30
    drop_all: bool = False
    longest_answer: int = 0
    delay: float = 0.0
    silent: bool = False
    bad: range = range(0)
    hidden_sizes: bool = False
    dd: bool = True
    keyboard: bool = False
    too_much: bool = False
    keys: str = ""
    requests: int = 0
    connections: int = 0
    refused_logins: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    open: list[asyncssh.SSHServerConnection] = field(default_factory=list)

    def found(self, path: bytes | str) -> Path:
        text = path.decode() if isinstance(path, bytes) else path
        folder, _, name = text.rpartition("/")
        if folder != DEVICES or name not in self.devices:
            raise asyncssh.SFTPNoSuchFile("No such file or directory")
        return self.devices[name]

    def count(self, connection: Any, offset: int, length: int) -> None:
        """Note a request, and cut the connection where its turn has come."""
        self.requests += 1
        self.ranges.append((offset, length))
        if self.drops_left and (self.drop_all or (self.drop_every and self.requests % self.drop_every == 0)):
            self.drops_left -= 1
            connection.abort()
            raise asyncssh.SFTPConnectionLost("cut")

    def refuses(self, offset: int, length: int) -> bool:
        return bool(self.bad) and offset < self.bad.stop and self.bad.start < offset + length


class Login(asyncssh.SSHServer):
    def __init__(self, manners: Manners) -> None:
        self.manners = manners

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.manners.connections += 1
        self.manners.open.append(conn)

    def password_auth_supported(self) -> bool:
        return not self.manners.keyboard

    def validate_password(self, username: str, password: str) -> bool:
        return self._right(username, password)

    def kbdint_auth_supported(self) -> bool:
        return self.manners.keyboard

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        return "", "", "", [(f"({username}@esxi) Password: ", False)]

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        return len(responses) == 1 and self._right(username, responses[0])

    def public_key_auth_supported(self) -> bool:
        return bool(self.manners.keys)

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.export_public_key("openssh").decode().split()[:2] == self.manners.keys.split()[:2]

    def _right(self, username: str, password: str) -> bool:
        right = (username, password) == (USER, PASSWORD)
        self.manners.refused_logins += not right
        return right


class Files(asyncssh.SFTPServer):
    manners: Manners

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        assert pflags == asyncssh.FXF_READ, "a source is only ever read"
        return os.open(self.manners.found(path), os.O_RDONLY)

    async def fstat(self, file_obj: Any) -> asyncssh.SFTPAttrs:
        size = 0 if self.manners.hidden_sizes else os.fstat(file_obj).st_size
        return asyncssh.SFTPAttrs(size=size, permissions=0o100600)

    async def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        manners = self.manners
        manners.count(self.connection, offset, size)
        if manners.silent:
            await asyncio.sleep(3600)
        if manners.delay:
            await asyncio.sleep(manners.delay)
        if manners.refuses(offset, size):
            raise asyncssh.SFTPFailure("Input/output error")
        return os.pread(file_obj, min(size, manners.longest_answer or size), offset) + b"!" * manners.too_much

    async def close(self, file_obj: Any) -> None:
        os.close(file_obj)

    async def scandir(self, path: bytes) -> Any:
        if path.decode().rstrip("/") != DEVICES:
            raise asyncssh.SFTPNoSuchFile("No such file or directory")
        for name, image in self.manners.devices.items():
            attrs = asyncssh.SFTPAttrs(size=image.stat().st_size, permissions=0o100600)
            yield asyncssh.SFTPName(name.encode(), b"", attrs)
        link = asyncssh.SFTPAttrs(size=20, permissions=0o120777)
        yield asyncssh.SFTPName(b"vml.0100000000", b"", link)


def _shell(manners: Manners) -> Any:
    """The few commands of ESXi's busybox that are asked."""

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        words = shlex.split(process.command or "")
        if manners.silent and words[0] == "dd":
            await asyncio.sleep(3600)
        try:
            output, status = _answer(manners, words, process)
        except asyncssh.SFTPNoSuchFile:
            process.stderr.write(f"{words[0]}: can't open: No such file or directory\n".encode())
            output, status = b"", 1
        except asyncssh.SFTPConnectionLost:
            return
        except OSError as error:
            process.stderr.write(f"{words[0]}: {error.strerror}\n".encode())
            output, status = b"", 1
        process.stdout.write(output)
        await process.stdout.drain()
        process.exit(status)

    return run


def _answer(manners: Manners, words: list[str], process: asyncssh.SSHServerProcess[bytes]) -> tuple[bytes, int]:
    if words[0] == "dd" and manners.dd:
        given = dict(word.split("=", 1) for word in words[1:])
        unit = int(given["bs"])
        offset, length = int(given["skip"]) * unit, int(given["count"]) * unit
        manners.count(process.get_extra_info("connection"), offset, length)
        if manners.refuses(offset, length):
            raise OSError(5, "Input/output error")
        with manners.found(given["if"]).open("rb") as image:
            return os.pread(image.fileno(), length, offset) + b"!" * manners.too_much, 0
    if words[0] == "stat":
        size = manners.found(words[-1]).stat().st_size
        return f"{0 if manners.hidden_sizes else size}\n".encode(), 0
    if words[:2] == ["partedUtil", "getptbl"]:
        size = manners.found(words[-1]).stat().st_size
        return f"gpt\n1305 255 63 {size // 512}\n1 2048 4095 AA31E02A400F11DB9590000C2911D1B8 vmfs 0\n".encode(), 0
    if words[0] == "ls":
        return "".join(f"{name}\n" for name in manners.devices).encode(), 0
    process.stderr.write(f"sh: {words[0]}: not found\n".encode())
    return b"", 127


class Host:
    """The server, on a thread of its own. `port` stays the same when it is started again."""

    def __init__(self, manners: Manners, key: asyncssh.SSHKey | None = None) -> None:
        self.manners = manners
        self.keys = [key or asyncssh.generate_private_key("ssh-ed25519")]
        # Bound and never listening: nobody else gets the port while the host is away.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: Any = None

    def start(self) -> None:
        """Listen."""
        files = type("Served", (Files,), {"manners": self.manners})
        self._server = self._run(self._listen(files if self.manners.sftp else None))

    async def _listen(self, files: Any) -> Any:
        return await asyncssh.create_server(
            lambda: Login(self.manners),
            "127.0.0.1",
            self.port,
            server_host_keys=self.keys,
            process_factory=_shell(self.manners),
            sftp_factory=files,
            encoding=None,
            login_timeout=PATIENCE,
        )

    def stop(self) -> None:
        """Refuse connections, and cut those there are."""
        if self._server is not None:
            self._run(self._end())
            self._server = None

    async def _end(self) -> None:
        self._server.close()
        for connection in self.manners.open:
            connection.abort()
        self.manners.open.clear()
        await self._server.wait_closed()

    def close(self) -> None:
        """End it."""
        self.stop()
        self._run(_all_ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        self._reserved.close()

    def address(self, device: str) -> str:
        """As the command line takes it."""
        return f"esxi://{USER}@127.0.0.1:{self.port}{DEVICES}/{device}"

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


async def _all_ended() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def serving(manners: Manners) -> Iterator[Host]:
    """A host that listens."""
    host = Host(manners)
    try:
        host.start()
        yield host
    finally:
        host.close()


def fingerprint(text: str) -> str:
    """The fingerprint in a sentence."""
    found = re.search(r"SHA256:\S+|sha256:[0-9a-f]{64}", text)
    assert found, text
    return found[0]
