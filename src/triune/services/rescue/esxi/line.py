"""One file of a host, read over SSH by many requests at once, and taken up again after a dropped connection.

Every read is only a question, so one that got no answer is asked again on the next connection. The host key is checked
each time, and a file whose size changed meanwhile is another file.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from typing import Protocol

from triune.domain.errors import Failed, TriuneError, Unreachable, from_dict
from triune.services.rescue.esxi import readers, ssh
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.address import Address
from triune.services.rescue.esxi.looping import EventThread
from triune.services.rescue.esxi.readers import Dropped, Reader, Refused


class Line(Protocol):
    """A file elsewhere. `segment` is the best length of a request in bytes, `inflight` how many may run at once.

    `start` gives the exact bytes, all within the size; its future raises Refused where the medium refuses, Unreachable
    where the host is gone for good.
    """

    name: str
    identity: str
    size: int
    segment: int
    inflight: int

    def start(self, offset: int, length: int) -> Future[bytes]: ...
    def close(self) -> None: ...


class SshLine:
    """Over SSH."""

    def __init__(self, address: Address, access: Access) -> None:
        """Log in and open it. Raises what `ssh.connect` and `readers.open_reader` raise, but PasswordWanted."""
        self.name = str(address)
        self._address, self._access, self._patience = address, access, access.patience
        self._password: str | None = None
        self._reader: Reader | None = None
        self._failures, self._heard, self._waiting = 0, time.monotonic(), 0
        self._watching: asyncio.TimerHandle | None = None
        self._given_up: TriuneError | None = None
        self._thread = EventThread()
        self._opening = asyncio.Lock()
        try:
            reader = self._reader = self._first()
        except BaseException:
            self._thread.close()
            raise
        self.size, self.segment, self.inflight = reader.size, reader.segment, reader.inflight
        self._slots = asyncio.Semaphore(reader.inflight)
        self.identity = f"ssh {address.host}:{address.service_port} {address.remote} {self.size}"

    def start(self, offset: int, length: int) -> Future[bytes]:
        """Ask for exactly these bytes."""
        return self._thread.start(self._fetch(offset, length))

    def close(self) -> None:
        """Hang up."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._given_up = Unreachable("host_unreachable", f"{self.name} was closed", hint="Open it again.")
            self._thread.run(_aborted(reader))
        self._thread.close()

    def _first(self) -> Reader:
        """The first login; the password is asked for on the caller's thread, and only when the keys are not enough."""
        for _ in range(2):
            try:
                return self._thread.run(self._opened())
            except ssh.PasswordWanted:
                self._password = self._access.passwords.of(self._address.user, self._address.host)
            except Dropped:
                break
        raise self._gone("it hung up at once")

    async def _opened(self) -> Reader:
        connection = await ssh.connect(self._address, self._access, self._password)
        try:
            return await asyncio.wait_for(readers.open_reader(connection, self._address.remote), self._patience.reading)
        except TimeoutError:
            connection.abort()
            raise Dropped from None
        except BaseException:
            connection.abort()
            raise

    async def _fetch(self, offset: int, length: int) -> bytes:
        data = b""
        async with self._slots:
            while len(data) < length:
                reader = await self._ready()
                self._asked()
                try:
                    part = await reader.read(offset + len(data), length - len(data))
                except Dropped:
                    self._drop(reader)
                    continue
                finally:
                    self._waiting -= 1
                if not part:
                    raise Refused(f"nothing is left there; it had {self.size} bytes when it was opened")
                self._failures, self._heard = 0, time.monotonic()
                data = data + part if data else part
        return data

    def _asked(self) -> None:
        """Note a request, and begin to watch when it is the only one."""
        if not self._waiting:
            self._heard = time.monotonic()
        self._waiting += 1
        if self._watching is None:
            loop = asyncio.get_running_loop()
            self._watching = loop.call_later(self._patience.reading, self._watch)

    def _watch(self) -> None:
        """Cut a connection on which nothing arrives though something was asked: a slow line is not a dead one."""
        self._watching = None
        reader = self._reader
        if not self._waiting or reader is None:
            return
        left = self._heard + self._patience.reading - time.monotonic()
        if left <= 0:
            self._drop(reader)
            left = self._patience.reading
        self._watching = asyncio.get_running_loop().call_later(left, self._watch)

    def _drop(self, reader: Reader) -> None:
        if reader is self._reader:
            self._reader = None
            self._failures += 1
            reader.abort()

    async def _ready(self) -> Reader:
        """The reader that stands, or a new one after a pause. Raises Unreachable after too many tries."""
        async with self._opening:
            while self._reader is None:
                if self._given_up is not None:  # a new one each time: a traceback grows with every raise
                    raise from_dict(self._given_up.as_dict())
                await self._again()
            return self._reader

    async def _again(self) -> None:
        await asyncio.sleep(self._patience.pause(self._failures))
        try:
            reader = await self._opened()
        except (Unreachable, Dropped) as error:
            self._failures += 1
            if self._failures >= self._patience.tries:
                self._given_up = self._gone(error.message if isinstance(error, Unreachable) else "it hangs up")
            return
        except (TriuneError, ssh.PasswordWanted) as error:
            self._given_up = error if isinstance(error, TriuneError) else self._gone("it wants another password")
            return
        if reader.size != self.size:
            reader.abort()
            self._given_up = self._changed(reader.size)
            return
        self._heard = time.monotonic()
        if self._failures >= self._patience.tries:
            reader.abort()
            self._given_up = self._gone("every connection breaks before a byte is read")
            return
        self._reader = reader
        self._access.tell(f"connected to {self._address.host} again")

    def _gone(self, why: str) -> Unreachable:
        return Unreachable(
            "host_unreachable",
            f"{self.name} went away: {why}",
            hint="See to the host and its network, then run the same command again: what was read is not lost.",
        )

    def _changed(self, size: int) -> Failed:
        return Failed(
            "source_changed",
            f"{self.name} had {self.size} bytes, and has {size} after connecting again",
            hint="Is it the same device? Start anew with another session.",
        )


async def _aborted(reader: Reader) -> None:
    reader.abort()
