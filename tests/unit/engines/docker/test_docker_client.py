"""The client against engines that are away, hung, or answer nonsense; without Docker."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.patience import PATIENCE, until

from triune.domain.errors import Failed, Invalid, TriuneError, Unreachable, Unsupported
from triune.domain.operation import Silent
from triune.engines.docker import client as module
from triune.engines.docker import images
from triune.engines.docker.client import DockerClient
from triune.engines.docker.engine import DockerEngine

Answer = Callable[[socket.socket], None]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[Answer], str]]:
    """Serve each connection on a unix socket with a function; returns the URL."""
    listener = socket.socket(socket.AF_UNIX)
    path = tmp_path / "d.sock"

    def serve(answer: Answer) -> str:
        listener.bind(str(path))
        listener.listen(50)

        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=loop, daemon=True).start()
        return f"unix://{path}"

    yield serve
    listener.close()


def reply(text: str, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return (head + text).encode()


def scripted(answers: dict[str, str], hung: threading.Event | None = None) -> Answer:
    def answer(connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(65536):
                if hung is not None and hung.is_set():
                    continue
                path = request.split(b" ")[1].decode().partition("?")[0]
                text = next((text for part, text in answers.items() if path.endswith(part)), None)
                connection.sendall(reply(text) if text is not None else reply('{"message": "none"}', "404 Not Found"))

    return answer


class Hung:
    """Answers nothing until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        with connection:
            self.over.wait(PATIENCE)


@pytest.fixture
def hung() -> Iterator[Hung]:
    made = Hung()
    yield made
    assert not made.over.is_set()
    made.over.set()


QUICK, SIGN_OF_LIFE = module._QUICK, module._SIGN_OF_LIFE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is meant to hang is given up soon."""
    monkeypatch.setattr(module, "_QUICK", PATIENCE)
    monkeypatch.setattr(module, "_SIGN_OF_LIFE", PATIENCE)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, float]]:
    """As the code is, once called; returns the seconds that each thread's requests might take, by its name."""
    asked: dict[str, float] = {}

    def start() -> dict[str, float]:
        monkeypatch.setattr(module, "_QUICK", QUICK)
        monkeypatch.setattr(module, "_SIGN_OF_LIFE", SIGN_OF_LIFE)
        session = DockerClient._session

        def noted(self: DockerClient, timeout: float, version: tuple[int, int]) -> object:
            name = threading.current_thread().name
            asked[name] = asked.get(name, 0.0) + timeout
            return session(self, timeout, version)

        monkeypatch.setattr(DockerClient, "_session", noted)
        return asked

    return start


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        DockerEngine(f"unix://{tmp_path}/none").list()
    assert caught.value.code == "engine_unreachable"
    assert "systemctl start docker" in caught.value.hint


def test_a_socket_nobody_listens_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "d.sock"))
    with pytest.raises(Unreachable):
        DockerEngine(f"unix://{tmp_path}/d.sock").list()


def test_a_hung_engine_is_unreachable_within_two_seconds(
    served: Callable[[Answer], str], hung: Hung, hasty: Callable[[], dict[str, float]]
) -> None:
    engine, asked = DockerEngine(served(hung)), hasty()
    calls = (engine.list, engine.stats, lambda: engine.delete("x"), lambda: engine.start("x", Silent()))

    def attempt(call: Callable[[], object]) -> None:
        with pytest.raises(Unreachable):
            call()

    with ThreadPoolExecutor(len(calls), thread_name_prefix="asking") as pool:
        list(pool.map(attempt, calls))
    assert 0 < max(asked.values()) < 2.0


def test_watching_a_hung_engine_ends_when_told(
    served: Callable[[Answer], str], hung: Hung, hasty: Callable[[], dict[str, float]]
) -> None:
    hasty()
    events: list[str] = []
    watch = DockerEngine(served(hung)).watch(lambda event: events.append(event.action))
    until(lambda: events)
    watch.close()
    assert events == ["engine-down"]


def test_an_engine_that_hangs_after_it_answered(
    served: Callable[[Answer], str], hasty: Callable[[], dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    hung = threading.Event()
    answers = {"/version": '{"ApiVersion": "1.41", "Version": "20.10"}', "/json": "[]", "/_ping": "OK"}
    engine = DockerEngine(served(scripted(answers, hung)))
    assert engine.list() == []
    hung.set()
    asked = hasty()
    with pytest.raises(Unreachable):
        engine.list()
    waited = sum(asked.values())
    assert 0 < waited < 2.0
    with pytest.raises(Unreachable) as caught:
        engine.list()
    assert sum(asked.values()) == waited, "the next one is answered at once"
    assert caught.value.hint
    hung.clear()
    now += module._SILENCE
    monkeypatch.setattr(module, "_QUICK", PATIENCE)
    assert engine.list() == []


def test_a_busy_engine_is_waited_for(served: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The list takes longer than the short time-out, but the engine gives signs of life."""
    pinged = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(65536):
                path = request.split(b" ")[1]
                if path.endswith(b"/version"):
                    connection.sendall(reply('{"ApiVersion": "1.41", "Version": "20.10"}'))
                elif b"/containers/json" in path:
                    pinged.wait(PATIENCE)
                    with contextlib.suppress(BrokenPipeError):
                        connection.sendall(reply("[]"))
                else:
                    pinged.set()
                    connection.sendall(reply("OK"))

    engine = DockerEngine(served(answer))
    pinged.set()
    assert engine.list() == []
    pinged.clear()
    monkeypatch.setattr(module, "_QUICK", 0.3)
    assert engine.list() == []
    assert pinged.is_set()


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"], ids=["known", "unknown"])
def test_an_engine_that_is_slow_to_tell_its_version_is_waited_for(
    served: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """It gives signs of life, if only by refusing the version it was asked in."""
    pinged = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(BrokenPipeError):
            while request := connection.recv(65536):
                path = request.split(b" ")[1]
                if path.endswith(b"/version"):
                    pinged.wait(PATIENCE)
                    connection.sendall(reply('{"ApiVersion": "1.41", "Version": "20.10"}'))
                elif path.endswith(b"/_ping"):
                    connection.sendall(reply('{"message": "client version 1.46 is too new"}', status))
                    pinged.set()
                else:
                    connection.sendall(reply("[]"))

    monkeypatch.setattr(module, "_QUICK", 0.3)
    assert DockerEngine(served(answer)).list() == []
    assert pinged.is_set()


def test_agrees_on_an_api_both_know(served: Callable[[Answer], str]) -> None:
    client = DockerClient(served(scripted({"/version": '{"ApiVersion": "1.51", "Version": "29.0"}'})))
    assert client.api_version == (1, 46)


@pytest.mark.parametrize("version", ['{"ApiVersion": "1.30", "Version": "17.06"}', "{}", '{"ApiVersion": "x.y"}'])
def test_old_engines_are_refused(served: Callable[[Answer], str], version: str) -> None:
    engine = DockerEngine(served(scripted({"/version": version})))
    with pytest.raises(Unsupported) as caught:
        engine.list()
    assert caught.value.code == "docker_too_old"
    assert not engine.probe().available


@pytest.mark.parametrize("text", ["nonsense", "", "[1, 2"])
def test_answers_that_are_not_json(served: Callable[[Answer], str], text: str) -> None:
    engine = DockerEngine(served(scripted({"/version": text})))
    with pytest.raises(TriuneError):
        engine.list()


def test_a_peer_that_is_not_http(served: Callable[[Answer], str]) -> None:
    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-nonsense\r\n\r\n")

    with pytest.raises((Unreachable, Failed)):
        DockerEngine(served(answer)).list()


def test_only_local_sockets() -> None:
    for url in ("tcp://10.0.0.1:2375", "unix://relative", "http://x", ""):
        with pytest.raises(Invalid):
            DockerEngine(url)


class TestReferences:
    def test_tags_digests_and_ports(self) -> None:
        assert images.split("debian") == ("debian", "latest")
        assert images.split("r:5000/a/b") == ("r:5000/a/b", "latest")
        assert images.split("r:5000/a/b:1") == ("r:5000/a/b", "1")
        assert images.split("a@sha256:ff") == ("a", "sha256:ff")
        assert images.exact("a@sha256:ff") == "a@sha256:ff"
        assert images.exact("deadbeef") == "deadbeef:latest"
        assert images.exact("sha256:ff") == "sha256:ff"

    @pytest.mark.parametrize("bad", ["", "a b", "../a", "a/../b", "a\nb", "-a", "a?b", "a#b", "a%2f", "x" * 600])
    def test_refused(self, bad: str) -> None:
        with pytest.raises(Invalid):
            images.split(bad)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


class TestArchives:
    def test_docker_save(self, tmp_path: Path) -> None:
        manifest = json.dumps([{"Config": "a.json", "RepoTags": ["a:1", "b:2"], "Layers": []}]).encode()
        assert images.archive_tags(archive(tmp_path / "a", {"./manifest.json": manifest})) == ["a:1", "b:2"]

    def test_oci_layout(self, tmp_path: Path) -> None:
        assert images.archive_tags(archive(tmp_path / "a", {"oci-layout": b"{}", "index.json": b"{}"})) is None

    @pytest.mark.parametrize(
        "manifest",
        [b"", b"{}", b"[]", b"[{}, {}]", b"[1]", b'[{"RepoTags": "x"}]', b'[{"RepoTags": ["a b"]}]', b"\xff"],
    )
    def test_bad_manifests(self, tmp_path: Path, manifest: bytes) -> None:
        with pytest.raises(Invalid):
            images.archive_tags(archive(tmp_path / "a", {"manifest.json": manifest}))

    def test_not_an_archive(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"nonsense" * 1000)
        with pytest.raises(Invalid):
            images.archive_tags(tmp_path / "a")
        (tmp_path / "b").write_bytes(b"")
        with pytest.raises(Invalid):
            images.archive_tags(tmp_path / "b")

    @pytest.mark.parametrize(
        ("kind", "size", "content"),
        [
            (tarfile.XHDTYPE, 64 << 20, bytes(64 << 20)),
            (tarfile.GNUTYPE_LONGNAME, 64 << 20, b"a" * (64 << 20)),
            (tarfile.REGTYPE, -1024, b""),
            (tarfile.REGTYPE, 1 << 45, b""),
        ],
        ids=["attributes", "name", "negative", "huge"],
    )
    def test_hostile_headers(self, tmp_path: Path, kind: bytes, size: int, content: bytes) -> None:
        member = tarfile.TarInfo("x")
        member.type, member.size = kind, size
        manifest = archive(tmp_path / "rest", {"manifest.json": b'[{"RepoTags": []}]'}).read_bytes()
        path = tmp_path / "a.gz"
        path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + content + manifest, 1))
        with pytest.raises(Invalid) as caught:
            images.archive_tags(path)
        assert "size" in caught.value.message or "large" in caught.value.message

    def test_a_damaged_compressed_one(self, tmp_path: Path) -> None:
        whole = archive(tmp_path / "a", {"manifest.json": os.urandom(200_000)}).read_bytes()
        for pack in (gzip.compress, lzma.compress):
            packed = bytearray(pack(whole))
            packed[len(packed) // 2 : len(packed) // 2 + 64] = bytes(64)
            (tmp_path / "b").write_bytes(packed)
            with pytest.raises(Invalid):
                images.archive_tags(tmp_path / "b")

    def test_a_manifest_that_is_a_link(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a", "w") as tar:
            member = tarfile.TarInfo("manifest.json")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
        with pytest.raises(Invalid):
            images.archive_tags(tmp_path / "a")
