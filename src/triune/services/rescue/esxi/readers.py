"""Reading one file of a host over a connection that stands: by SFTP, or by `dd` where SFTP is refused."""

from __future__ import annotations

import re
import shlex
import stat
from typing import Protocol

import asyncssh

from triune.domain.errors import Denied, Failed, NotFound

BLOCK = 64 * 1024
_LARGEST_REQUEST = 4 * BLOCK
_SECTOR = 512
_LONGEST_TALK = 64 * 1024
_LARGEST_SIZE_BITS = 63
_MOST_NAMES = 10_000
# What an ESXi shell (busybox) and a Linux one have; the first number above zero counts.
_SIZE_COMMANDS = ("stat -L -c %s {}", "partedUtil getptbl {}", "blockdev --getsize64 {}")


class Dropped(Exception):
    """The connection is gone or silent."""


class Refused(Exception):
    """The host answers that it can't read there."""


class Reader(Protocol):
    """One opened file. `segment` is the best length of a request, `inflight` how many may run at once.

    `read` may give fewer bytes, none at the end. It raises Dropped and Refused.
    """

    segment: int
    inflight: int
    size: int

    async def read(self, offset: int, length: int) -> bytes: ...
    def abort(self) -> None: ...


class SftpReader:
    """By SFTP, version 3: each `read` is one request."""

    inflight = 64

    def __init__(self, connection: asyncssh.SSHClientConnection, file: asyncssh.SFTPClientFile, limit: int) -> None:
        self._connection, self._file = connection, file
        # A server without `limits@openssh.com` is an older OpenSSH, which reads 64 KiB at most.
        self.segment = max(BLOCK, min(_LARGEST_REQUEST, limit // BLOCK * BLOCK))
        self.size = 0

    async def read(self, offset: int, length: int) -> bytes:
        """One request."""
        try:
            data: bytes = await self._file.read(min(length, self.segment), offset)
        except asyncssh.SFTPEOFError:
            return b""
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError, ConnectionError):
            raise Dropped from None
        except (asyncssh.SFTPError, OSError) as error:
            raise Refused(_reason(error)) from None
        except (asyncssh.Error, ValueError):
            raise Dropped from None
        if len(data) > length:
            raise Refused("the host answers with more than it was asked for")
        return data

    def abort(self) -> None:
        """Cut the connection."""
        self._connection.abort()


class DdReader:
    """By a `dd` for each request. sshd allows ten sessions on a connection unless it was set up otherwise."""

    inflight = 6
    segment = 32 * BLOCK

    def __init__(self, connection: asyncssh.SSHClientConnection, path: str) -> None:
        self._connection, self._path = connection, path
        self.size = 0

    async def read(self, offset: int, length: int) -> bytes:
        """One `dd`, of whole blocks or sectors around the range."""
        unit = BLOCK if offset % BLOCK == 0 and length >= BLOCK else _SECTOR
        first, last = offset // unit, -(-(offset + length) // unit)
        name = shlex.quote(self._path)
        command = f"dd if={name} bs={unit} skip={first} count={last - first}"
        data, told, status = await _run(self._connection, command, (last - first) * unit)
        if status is None:
            raise Dropped
        if status != 0:
            raise Refused(told or f"dd ended with {status}")
        return data[offset - first * unit :][:length]

    def abort(self) -> None:
        """Cut the connection."""
        self._connection.abort()


async def open_reader(connection: asyncssh.SSHClientConnection, path: str) -> Reader:
    """Open a file the best way there is. Raises Dropped, NotFound, Denied and Failed."""
    reader: Reader
    try:
        sftp = await connection.start_sftp_client()
        file = await sftp.open(path, "rb", block_size=None)
        reader = SftpReader(connection, file, sftp.limits.max_read_len)
        reader.size = (await file.stat()).size or 0
    except asyncssh.SFTPNoSuchFile:
        raise _absent(path) from None
    except asyncssh.SFTPPermissionDenied:
        raise _denied(path) from None
    except (asyncssh.SFTPError, asyncssh.ChannelOpenError):
        reader = DdReader(connection, path)
    except (asyncssh.Error, OSError):
        raise Dropped from None
    if reader.size <= 0:
        reader.size = await _size(connection, path)
    return reader


async def names(connection: asyncssh.SSHClientConnection, folder: str) -> list[tuple[str, int]]:
    """Names and sizes of what lies in a folder but links (`vml.…`), sorted. Raises Dropped, NotFound and Denied."""
    try:
        sftp = await connection.start_sftp_client()
        found: list[tuple[str, int]] = []
        async for entry in sftp.scandir(folder):
            if entry.filename not in (".", "..") and not stat.S_ISLNK(entry.attrs.permissions or 0):
                found.append((str(entry.filename), entry.attrs.size or 0))
            if len(found) >= _MOST_NAMES:
                break
        return sorted(found)
    except asyncssh.SFTPNoSuchFile:
        raise _absent(folder) from None
    except asyncssh.SFTPPermissionDenied:
        raise _denied(folder) from None
    except (asyncssh.SFTPError, asyncssh.ChannelOpenError):
        data, _, _ = await _run(connection, f"ls -1 {shlex.quote(folder)}", _LONGEST_TALK)
        return [(name, 0) for name in sorted(data.decode(errors="replace").splitlines())]
    except (asyncssh.Error, OSError):
        raise Dropped from None


async def _size(connection: asyncssh.SSHClientConnection, path: str) -> int:
    """In bytes, asked from the host's tools."""
    for command in _SIZE_COMMANDS:
        data, told, status = await _run(connection, command.format(shlex.quote(path)), _LONGEST_TALK)
        if status == 0 and (size := size_told(command, data)):
            return size
        if "No such file" in told:
            raise _absent(path)
        if "Permission denied" in told:
            raise _denied(path)
    raise Failed("no_size", f"the host does not say how large {path} is", hint="Look at it with partedUtil there.")


def size_told(command: str, answer: bytes) -> int:
    """The size in bytes in a tool's answer; 0 where there is none.

    partedUtil gives the table's kind, then `cylinders heads sectors-per-track sectors`, then a line for each partition.
    """
    lines = answer.decode(errors="replace").splitlines()
    if command.startswith("partedUtil"):
        fields = lines[1].split() if len(lines) > 1 else []
        number, unit = (fields[3] if len(fields) == 4 else ""), _SECTOR
    else:
        number, unit = (lines[0].strip() if lines else ""), 1
    if not re.fullmatch(r"[0-9]{1,19}", number):
        return 0
    size = int(number) * unit
    return size if size.bit_length() <= _LARGEST_SIZE_BITS else 0


async def _run(connection: asyncssh.SSHClientConnection, command: str, limit: int) -> tuple[bytes, str, int | None]:
    """Output of at most `limit` bytes, the last line of what it complains, and its status. Raises Dropped, Refused."""
    data = bytearray()
    try:
        async with connection.create_process(command, encoding=None, stdin=asyncssh.DEVNULL) as process:
            while part := await process.stdout.read(_LARGEST_REQUEST):
                data += part
                if len(data) > limit:
                    process.close()
                    raise Refused("the host answers with more than it was asked for")
            told = (await process.stderr.read(_LONGEST_TALK)).decode(errors="replace").strip()
            await process.wait_closed()
    except (asyncssh.Error, OSError):
        raise Dropped from None
    return bytes(data), told.rpartition("\n")[2][:200], process.exit_status


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or "it gives no reason")[:200]


def _absent(path: str) -> NotFound:
    return NotFound(
        "no_source",
        f"there is no {path} on the host",
        hint="List the devices: triune rescue ls esxi://HOST/vmfs/devices/disks",
    )


def _denied(path: str) -> Denied:
    return Denied("source_refused", f"the host does not let this user read {path}", hint="Log in as root.")
