"""One intact file of a datastore, over HTTPS: `/folder/PATH?dcPath=ha-datacenter&dsName=DATASTORE`, by ranges.

The host reads the file for us, so this works as long as the host itself can read the datastore.
"""

from __future__ import annotations

import base64
import http.client
import queue
import re
import ssl
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import quote, urlencode

from triune.domain.errors import Denied, Failed, NotFound, TriuneError, Unreachable
from triune.services.rescue.esxi import tls
from triune.services.rescue.esxi.access import Access
from triune.services.rescue.esxi.address import Address
from triune.services.rescue.esxi.readers import Refused

# An ESXi host knows one data center by this name.
DATACENTER = "ha-datacenter"
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_NO_RANGE = re.compile(r"bytes \*/(\d{1,19})")
_MIB = 1 << 20
_SKIPPED = 64 * 1024


class WebLine:
    """A file of a datastore. Four requests run at once, each on a connection that is used again."""

    segment = 2 * _MIB
    inflight = 4

    def __init__(self, address: Address, access: Access, context: ssl.SSLContext | None = None) -> None:
        """Look at the file. Raises Denied, NotFound, Unreachable, and Failed where the host knows no ranges."""
        self.name = str(address)
        self._address, self._patience = address, access.patience
        self._context = context or tls.trusted(address, access)
        self._idle: queue.SimpleQueue[http.client.HTTPSConnection] = queue.SimpleQueue()
        self._closed = threading.Event()
        password = access.passwords.of(address.user, address.host)
        self._login = base64.b64encode(f"{address.user}:{password}".encode()).decode()
        query = urlencode({"dcPath": DATACENTER, "dsName": address.datastore}, quote_via=quote)
        self._target = f"/folder/{quote(address.file)}?{query}"
        self.size = 0
        try:
            self.size, _ = self._patiently(0, 1)
        except Refused as error:
            raise Failed("no_ranges", f"{self.name}: {error}", hint="Is it an ESXi host?") from None
        self.identity = f"https {address.host}:{address.service_port} {address.datastore}/{address.file} {self.size}"
        self._pool = ThreadPoolExecutor(self.inflight, thread_name_prefix="esxi")

    def start(self, offset: int, length: int) -> Future[bytes]:
        """Ask for exactly these bytes."""
        return self._pool.submit(self._fetch, offset, length)

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def _fetch(self, offset: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            size, part = self._patiently(offset + len(data), length - len(data))
            if size != self.size:
                raise Refused(f"it had {self.size} bytes when it was opened, and has {size} now")
            if not part:
                raise Refused("the host ended its answer early")
            data = data + part if data else part
        return data

    def _patiently(self, offset: int, length: int) -> tuple[int, bytes]:
        """The file's size and at least one byte, unless it is empty; asked again after a dropped connection."""
        failures, why = 0, ""
        while failures < self._patience.tries and not self._closed.is_set():
            if failures:
                self._closed.wait(self._patience.pause(failures))
            connection = self._connection()
            try:
                size, part, whole = self._ask(connection, offset, length)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise self._other_host() from None
                failures, why = failures + 1, str(error) or type(error).__name__
                continue
            except (Refused, TriuneError):
                connection.close()
                raise
            if whole:
                self._idle.put(connection)
            else:
                connection.close()
            if part or not size:
                return size, part
            failures, why = failures + 1, "the answer is empty"
        raise Unreachable(
            "host_unreachable",
            f"{self.name} can't be read: {why or 'it was closed'}",
            hint="See to the host and its network, then run the same command again.",
        )

    def _connection(self) -> http.client.HTTPSConnection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return http.client.HTTPSConnection(
                self._address.host,
                self._address.service_port,
                timeout=self._patience.reading,
                context=self._context,
            )

    def _ask(self, connection: http.client.HTTPSConnection, offset: int, length: int) -> tuple[int, bytes, bool]:
        """Size, bytes, and whether the connection can be used again."""
        headers = {
            "Authorization": f"Basic {self._login}",
            "Range": f"bytes={offset}-{offset + length - 1}",
            "Accept-Encoding": "identity",
        }
        connection.request("GET", self._target, headers=headers)
        answer = connection.getresponse()
        if answer.status == 416 and (empty := _NO_RANGE.fullmatch(answer.headers.get("Content-Range", ""))):
            answer.read(_SKIPPED)
            return int(empty[1]), b"", answer.isclosed()
        if answer.status == 200 and answer.headers.get("Content-Length") == "0":
            return 0, b"", answer.isclosed()
        if answer.status != 206:
            raise self._refusal(answer.status)
        told = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if told is None or int(told[1]) != offset or not offset <= int(told[2]) < int(told[3]):
            raise Refused("the host answers with another range than it was asked for")
        wanted = min(length, int(told[2]) + 1 - offset)
        try:
            part = answer.read(wanted)
        except http.client.IncompleteRead as short:
            part = short.partial
        if len(part) == wanted and not answer.isclosed():
            answer.read(_SKIPPED)
        return int(told[3]), part, len(part) == wanted and answer.isclosed()

    def _refusal(self, status: int) -> Exception:
        if status in (401, 403):
            return Denied(
                "login_refused",
                f"{self._address.host} does not let {self._address.user} read {self._address.file or 'this'}",
                hint="Check user and password. ESXi locks an account after five wrong passwords.",
            )
        if status == 404:
            return NotFound(
                "no_source",
                f"there is no {self.name}",
                hint="List its folder: triune rescue ls esxi://HOST/DATASTORE/FOLDER",
            )
        if status in {429, 503}:
            return http.client.HTTPException(f"the host is busy ({status})")
        return Refused(f"the host answers with status {status}")

    def _other_host(self) -> Denied:
        return Denied(
            "host_changed",
            f"the certificate of {self._address.host} changed while it was read",
            hint="Someone may be in between. Look at the host, then begin again.",
        )
