"""Intact files over HTTPS: ranges, logins and certificates, against a small server with every bad habit."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.rescue.esxi.host import PASSWORD, USER, fingerprint
from triune.disks.source import Unreadable
from triune.domain.errors import Denied, Failed, Invalid, NotFound, Unreachable
from triune.services.rescue.esxi.access import Access, Passwords
from triune.services.rescue.esxi.address import parse_address
from triune.services.rescue.esxi.buffered import RemoteSource
from triune.services.rescue.esxi.opening import open_address

DATA = random.Random(5).randbytes((5 << 20) + 77)
ASKED = {"dcPath": ["ha-datacenter"], "dsName": ["my ds"]}
Open = Callable[..., RemoteSource]


@dataclass
class Habits:
    """How the server misbehaves; the counts say how often yet."""

    cut: int = 0
    wrong_range: bool = False
    no_ranges: bool = False
    busy: int = 0
    data: bytes = DATA
    logins: int = 0
    seen: int = 0


class Folder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    habits: Habits

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        habits, url = self.habits, urlsplit(self.path)
        habits.seen += 1
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {login}":
            habits.logins += 1
            return self._plain(401)
        query = parse_qs(url.query)
        if (unquote(url.path), query) != (
            "/folder/a vm/disk#1.vmdk",
            {"dcPath": ["ha-datacenter"], "dsName": ["my ds"]},
        ):
            return self._plain(404)
        if habits.busy:
            habits.busy -= 1
            return self._plain(503)
        return self._range()

    def _plain(self, status: int, body: bytes = b"no\n") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _range(self) -> None:
        habits = self.habits
        if habits.no_ranges or not habits.data:
            return self._plain(200, habits.data)
        first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        if first >= len(habits.data):
            return self._plain(416)
        last = min(last, len(habits.data) - 1)
        body = habits.data[first : last + 1]
        if habits.wrong_range:
            first, last = first + 1, last + 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(habits.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if habits.cut and len(body) > 1000:
            habits.cut -= 1
            self.wfile.write(body[: len(body) // 3])
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None


def certificate(folder: Path) -> Path:
    """One that the server signs itself, as ESXi does."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost.localdomain")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{made.serial_number}.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


class Server:
    """HTTPS on loopback; `certify` gives it another certificate."""

    def __init__(self, habits: Habits, folder: Path) -> None:
        handler = type("Handler", (Folder,), {"habits": habits})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *about: None  # clients that hang up are a part of the tests
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.pem = certificate(folder)
        self.context.load_cert_chain(self.pem)
        self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def certify(self, folder: Path) -> None:
        self.context.load_cert_chain(certificate(folder))

    def address(self, path: str = "my ds/a vm/disk#1.vmdk") -> str:
        return f"esxi://{USER}@127.0.0.1:{self.port}/{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def habits() -> Habits:
    return Habits()


@pytest.fixture
def server(habits: Habits, tmp_path: Path) -> Iterator[Server]:
    served = Server(habits, tmp_path)
    yield served
    served.close()


@pytest.fixture
def opened(server: Server, access: Access) -> Iterator[Open]:
    sources: list[RemoteSource] = []

    def _open(path: str = "my ds/a vm/disk#1.vmdk", **changes: object) -> RemoteSource:
        source = open_address(parse_address(server.address(path)), replace(access, **changes))  # type: ignore[arg-type]
        sources.append(source)
        return source

    yield _open
    for source in sources:
        source.close()


def test_bytes(opened: Open) -> None:
    source, dice = opened(), random.Random(1)
    assert source.size == len(DATA)
    for _ in range(20):
        offset, length = dice.randrange(len(DATA)), dice.randrange(400_000)
        assert source.read(offset, length) == DATA[offset : offset + length]
    assert source.read(0, 1 << 30) == DATA


def test_answers_that_are_cut_are_taken_up(opened: Open, habits: Habits) -> None:
    habits.cut, habits.busy = 5, 2
    assert opened().read(0, 1 << 30) == DATA
    assert habits.cut == 0


def test_a_busy_host_is_not_asked_for_ever(opened: Open, habits: Habits) -> None:
    habits.busy = 1000
    with pytest.raises(Unreachable, match="busy"):
        opened()
    assert habits.seen < 20


def test_an_empty_file(opened: Open, habits: Habits) -> None:
    habits.data = b""
    assert opened().size == 0
    assert opened().read(0, 10) == b""


def test_a_file_that_changes_its_size_is_noticed(opened: Open, habits: Habits) -> None:
    source = opened()
    habits.data = DATA[: len(DATA) // 2]
    with pytest.raises(Unreadable):
        source.read(len(DATA) // 4, 3 << 20)


def test_wrong_ranges_are_never_taken_for_right_ones(opened: Open, habits: Habits) -> None:
    source = opened()
    habits.wrong_range = True
    with pytest.raises(Unreadable, match="another range"):
        source.read(4 << 20, 10)


def test_a_host_without_ranges(opened: Open, habits: Habits) -> None:
    habits.no_ranges = True
    with pytest.raises(Failed, match="status 200"):
        opened()


def test_no_such_file(opened: Open) -> None:
    with pytest.raises(NotFound):
        opened("my ds/other.vmdk")


def test_a_folder_or_a_host_is_no_source(server: Server, access: Access) -> None:
    for path in ("", "my ds"):
        with pytest.raises(Invalid, match="no file or device"):
            open_address(parse_address(server.address(path)), access)


def test_a_wrong_password_is_sent_once(opened: Open, habits: Habits) -> None:
    with pytest.raises(Denied) as refused:
        opened(passwords=Passwords(ask=lambda who: "wrong-Word"))
    assert refused.value.code == "login_refused"
    assert habits.logins == 1


def test_nothing_is_sent_to_an_unknown_certificate(opened: Open, habits: Habits, server: Server) -> None:
    with pytest.raises(Denied) as refused:
        opened(accept_new=False)
    assert refused.value.code == "host_unknown"
    shown = x509.load_pem_x509_certificate(server.pem.read_bytes()).fingerprint(hashes.SHA256()).hex()
    assert fingerprint(refused.value.message) == f"sha256:{shown}"
    assert habits.seen == 0


def test_an_accepted_certificate_is_known_the_next_time(opened: Open) -> None:
    opened()
    assert opened(accept_new=False).read(0, 10) == DATA[:10]


def test_a_changed_certificate_is_refused_always(opened: Open, server: Server, tmp_path: Path, habits: Habits) -> None:
    opened().close()
    server.certify(tmp_path)
    before = habits.seen
    with pytest.raises(Denied) as refused:
        opened()
    assert refused.value.code == "host_changed"
    assert habits.seen == before


def test_a_certificate_that_changes_between_two_connections(
    opened: Open, server: Server, tmp_path: Path, habits: Habits
) -> None:
    source = opened()
    source.read(0, 10)
    server.certify(tmp_path)
    habits.cut = 4  # so that new connections are needed
    with pytest.raises(Denied, match="changed while"):
        source.read(0, 1 << 30)


def test_a_certificate_of_a_known_authority_needs_no_accepting(
    opened: Open, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.pem))
    assert opened(accept_new=False).read(0, 10) == DATA[:10]
    assert not (tmp_path / "config").exists()
