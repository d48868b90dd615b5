"""Docker's store of images: archives, and pulling from a real registry on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.adapters import TESTS, DockerAdapter, busybox_tar
from tests.live.registry import GOOD, free_port, serve
from tests.patience import PATIENCE, Awake
from triune.domain.errors import Cancelled, Conflict, Denied, Failed, Invalid, NotFound, Unreachable
from triune.domain.operation import Silent
from triune.engines.base import Credentials, OciStore
from triune.engines.docker.engine import DockerEngine

pytestmark = [pytest.mark.live, pytest.mark.docker]


def docker(*argv: str) -> str:
    done = subprocess.run(["/usr/bin/docker", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def store() -> Iterator[OciStore]:
    engine = DockerAdapter().make()
    assert isinstance(engine, DockerEngine)
    assert engine.oci is not None
    yield engine.oci
    left = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for reference in left:
        if "tdoc" in reference:
            engine.oci.remove(reference)


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory, store: OciStore) -> Iterator[tuple[str, str]]:
    """(an open one, a private one) with the image tdoc/bb:1."""
    if not shutil.which("docker-registry"):
        pytest.skip("no registry server: apt install docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    data = folder / "data"
    open_process, open_at = serve(folder, data, private=False)
    private_process, private_at = serve(folder, data, private=True)
    try:
        reference = f"{open_at}/tdoc/bb:1"
        store.load_tree(busybox_tar(TESTS / "busybox"), reference, command=("sh",), labels={})
        docker("push", "-q", reference)
        store.remove(reference)
        yield open_at, private_at
    finally:
        for process in (open_process, private_process):
            process.terminate()
            process.wait(PATIENCE)


class Recorder(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fractions: list[float] = []
        self.texts: list[str] = []

    def step(self, name: str, text: str) -> None:
        self.steps.append(name)
        self.texts.append(text)

    def report(self, fraction: float | None, text: str = "") -> None:
        self.texts.append(text)
        if fraction is not None:
            self.fractions.append(fraction)


class TestPull:
    def test_from_an_open_registry(self, store: OciStore, registries: tuple[str, str]) -> None:
        reference = f"{registries[0]}/tdoc/bb:1"
        progress = Recorder()
        form = store.pull(reference, None, progress)
        found = store.inspect(reference)
        assert found is not None
        assert (found["id"], found["command"]) == (form.id, ["sh"])
        assert str(found["digest"]).startswith("sha256:")
        assert progress.steps == ["docker-pull"]
        assert progress.fractions[-1] == 1.0
        by_digest = store.pull(f"{registries[0]}/tdoc/bb@{found['digest']}", None, Silent())
        assert by_digest.id == form.id
        store.remove(reference)
        store.remove(by_digest.reference)
        assert store.inspect(form.id) is None

    def test_from_a_private_one(
        self, store: OciStore, registries: tuple[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        reference = f"{registries[1]}/tdoc/bb:1"
        for credentials in (None, Credentials(username="tdoc", password="wrong")):
            with pytest.raises(Denied) as caught:
                store.pull(reference, credentials, Silent())
            assert caught.value.code == "registry_denied"
            assert "wrong" not in str(caught.value.as_dict())
        progress = Recorder()
        store.pull(reference, GOOD, progress)
        store.remove(reference)
        assert GOOD.password not in caplog.text + str(progress.texts)

    @pytest.mark.parametrize("missing", ["tdoc/bb:nine", "tdoc/none:1"])
    def test_what_is_not_there(self, store: OciStore, registries: tuple[str, str], missing: str) -> None:
        with pytest.raises(NotFound) as caught:
            store.pull(f"{registries[0]}/{missing}", None, Silent())
        assert caught.value.code == "image_not_found"

    def test_a_registry_that_is_away(self, store: OciStore) -> None:
        with pytest.raises(Unreachable) as caught:
            store.pull(f"127.0.0.1:{free_port()}/tdoc/bb:1", None, Silent())
        assert caught.value.code == "registry_unreachable"

    def test_cancelling(self, store: OciStore, registries: tuple[str, str]) -> None:
        class Impatient(Silent):
            def report(self, fraction: float | None, text: str = "") -> None:
                raise Cancelled("cancelled", "cancelled")

        with pytest.raises(Cancelled):
            store.pull(f"{registries[0]}/tdoc/bb:1", None, Impatient())

    def test_bad_names(self, store: OciStore) -> None:
        for bad in ("", "a b", "../../containers/json", "a\nb"):
            with pytest.raises(Invalid):
                store.pull(bad, None, Silent())


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 16):
            yield piece


@pytest.fixture
def image(store: OciStore) -> Iterator[str]:
    reference = "tdoc-archive:1"
    store.load_tree(busybox_tar(TESTS / "busybox"), reference, command=("sh",), labels={})
    yield reference
    store.remove(reference)


class TestArchives:
    def test_docker_save(self, store: OciStore, image: str, tmp_path: Path) -> None:
        before = store.inspect(image)
        docker("save", "-o", str(tmp_path / "a.tar"), image)
        store.remove(image)
        form = store.load_archive(chunks(tmp_path / "a.tar"), "tdoc-loaded:2")
        assert before is not None
        assert form.id == before["id"]
        assert store.inspect(image) is None
        store.remove("tdoc-loaded:2")

    def test_an_archive_does_not_redefine_our_images(self, store: OciStore, image: str, tmp_path: Path) -> None:
        """Its tag is that of an image we have, its content another."""
        docker("save", "-o", str(tmp_path / "evil.tar"), image)
        evil = store.inspect(image)
        good = store.load_tree(busybox_tar(TESTS / "busybox"), image, command=("true",), labels={})
        form = store.load_archive(chunks(tmp_path / "evil.tar"), "tdoc-loaded:3")
        assert evil is not None
        assert form.id == evil["id"] != good.id
        now = store.inspect(image)
        assert now is not None
        assert now["id"] == good.id
        store.remove("tdoc-loaded:3")

    def test_oci_archive(self, store: OciStore, image: str, tmp_path: Path) -> None:
        if not shutil.which("skopeo"):
            pytest.skip("no skopeo: apt install skopeo")
        docker("save", "-o", str(tmp_path / "saved.tar"), image)
        target = f"oci-archive:{tmp_path / 'a.tar'}:x"
        subprocess.run(
            ["skopeo", "copy", "--insecure-policy", f"docker-archive:{tmp_path / 'saved.tar'}", target],
            check=True,
            capture_output=True,
        )
        store.load_archive(chunks(tmp_path / "a.tar"), "tdoc-oci:1")
        found = store.inspect("tdoc-oci:1")
        assert found is not None
        assert found["command"] == ["sh"]
        store.remove("tdoc-oci:1")

    def test_several_images(self, store: OciStore, image: str, tmp_path: Path) -> None:
        store.load_tree(busybox_tar(TESTS / "busybox"), "tdoc-second:1", command=("true",), labels={})
        docker("save", "-o", str(tmp_path / "a.tar"), image, "tdoc-second:1")
        with pytest.raises(Invalid):
            store.load_archive(chunks(tmp_path / "a.tar"), "tdoc-loaded:4")
        assert store.inspect("tdoc-loaded:4") is None

    def test_nonsense(self, store: OciStore) -> None:
        for content in (b"", b"nonsense" * 1000, os.urandom(10_000)):
            with pytest.raises(Invalid):
                store.load_archive(iter((content,)), "tdoc-loaded:5")
            assert store.inspect("tdoc-loaded:5") is None

    def test_a_cut_tree(self, store: OciStore) -> None:
        def cut() -> Iterator[bytes]:
            left = 100_000
            for piece in busybox_tar(TESTS / "busybox"):
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    return

        with pytest.raises(Failed):
            store.load_tree(cut(), "tdoc-cut:1", command=("sh",), labels={})
        assert store.inspect("tdoc-cut:1") is None


def test_labels_survive_dockerfile_syntax(store: OciStore) -> None:
    hard = "a $HOME ${X} \"q\" \\ \\n 's' = #c"
    store.load_tree(
        busybox_tar(TESTS / "busybox"), "tdoc-labels:1", command=("sh", "-c", 'echo "$A"'), labels={"tdoc.a": hard}
    )
    assert docker("inspect", "-f", '{{index .Config.Labels "tdoc.a"}}', "tdoc-labels:1") == hard
    store.remove("tdoc-labels:1")


def test_an_image_in_use_is_kept(store: OciStore, image: str) -> None:
    docker("create", "--name", "tdoc-user", image)
    try:
        with pytest.raises(Conflict) as caught:
            store.remove(image)
        assert caught.value.code == "image_in_use"
    finally:
        docker("rm", "tdoc-user")


def test_pulls_do_not_block_lists(store: OciStore) -> None:
    """A slow registry holds a pull, not the engine."""
    engine = DockerAdapter().make()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        outcome: list[BaseException] = []

        def pull() -> None:
            try:
                store.pull(f"127.0.0.1:{port}/tdoc/slow:1", None, Silent())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=pull, daemon=True)
        thread.start()
        time.sleep(0.3)
        with Awake() as awake:
            engine.list()
        assert awake.seconds < 1
    thread.join(60)
    assert isinstance(outcome[0], Unreachable)
