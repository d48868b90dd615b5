"""Docker's store of images: import, load, pull, inspect, remove."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, Self

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError
from triune.domain.image import OciForm
from triune.domain.names import single_line
from triune.domain.operation import Progress
from triune.engines.base import Credentials
from triune.engines.docker import pulling
from triune.engines.docker.client import DockerClient
from triune.engines.docker.watch import lines
from triune.host.run import run

# The characters of Docker's reference grammar (distribution/reference); Docker checks the rest.
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}", re.ASCII)
_LABEL_KEY = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?", re.ASCII)
_LOOK = 0.5
_MANIFEST_CAP = 1 << 20
_MAX_ENTRIES = 100_000
_MAX_BYTES = 1 << 38
_MAX_HEADER = 1 << 20
_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *_NAMES)
# Archives can be larger than the memory a /tmp may be made of.
_SPOOL = "/var/tmp"  # noqa: S108 - the name in it is random and the file private
_SPOOL_PREFIX = "triune-archive-"
_LOAD_TIMEOUT = 3600.0


class ImageStore:
    """The OCI store facet."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def load_tree(
        self, tar: Iterator[bytes], reference: str, *, command: Sequence[str], labels: Mapping[str, str]
    ) -> OciForm:
        """Make a one-layer image of a root tree's tar stream, and tag it."""
        repository, tag = split(reference)
        changes = [
            "CMD " + json.dumps([single_line(word, "the command") for word in command]),
            *(_label(key, value) for key, value in labels.items()),
        ]
        before = self.inspect(f"{repository}:{tag}")
        try:
            said = self._client.act(
                lambda api: api.import_image_from_data(tar, repository=repository, tag=tag, changes=changes)
            )
            for line in str(said).splitlines():
                _raise_error(line.encode(), "import_failed", f"Docker could not import the tree as {reference}")
        except Failed:
            # With containerd's store Docker 29 tags it before it has looked into it.
            self._put_back(f"{repository}:{tag}", before)
            raise
        return self._form(f"{repository}:{tag}")

    def _put_back(self, tagged: str, before: Mapping[str, object] | None) -> None:
        """Let a tag mean again what it did."""
        if before is None:
            self.remove(tagged)
        else:
            self._tag(str(before["id"]), split(tagged))

    def load_archive(self, archive: Iterator[bytes], reference: str) -> OciForm:
        """Load a docker-save or OCI archive holding one image, and tag it.

        The archive's own tags are put back to what they were: a file must not redefine images that exist.
        Raises Invalid("bad_archive").
        """
        repository, tag = split(reference)
        folder = Path(os.environ.get("TMPDIR", _SPOOL))
        _sweep(folder)
        # It must have a name: skopeo follows /proc/PID/fd to one.
        with tempfile.NamedTemporaryFile(prefix=_SPOOL_PREFIX, dir=folder) as spool:
            fcntl.flock(spool, fcntl.LOCK_EX)
            for piece in archive:
                spool.write(piece)
            spool.flush()
            path = Path(spool.name)
            own_tags = archive_tags(path)
            if own_tags is None:
                self._load_layout(path, (repository, tag), folder)
            else:
                spool.seek(0)
                self._load(spool, own_tags, (repository, tag))
        return self._form(f"{repository}:{tag}")

    def _load_layout(self, path: Path, wanted: tuple[str, str], folder: Path) -> None:
        """Docker before 25 loads no OCI layouts, and Ubuntu 24.04's skopeo does not talk to Docker 29: by a file."""
        reference = ":".join(wanted)
        argv = ["skopeo", "copy", "--insecure-policy", f"oci-archive:{path}"]
        with tempfile.NamedTemporaryFile(prefix=_SPOOL_PREFIX, dir=folder, delete=False) as made:
            fcntl.flock(made, fcntl.LOCK_EX)
            try:
                done = run([*argv, f"docker-archive:{made.name}:{reference}"], check=False, timeout=_LOAD_TIMEOUT)
                if done.status != 0:
                    said = done.stderr.decode(errors="replace").strip().splitlines() or ["skopeo refused it"]
                    raise _bad_archive(said[-1][-300:])
                self._load(made, [reference], wanted)
            finally:
                Path(made.name).unlink(missing_ok=True)  # skopeo itself removes what it could not complete

    def _load(self, spool: Any, own_tags: Sequence[str], wanted: tuple[str, str]) -> None:
        before = {own: self.inspect(own) for own in own_tags}
        said = self._client.act(lambda api: list(api.load_image(spool)))
        text = ""
        for line in said:
            encoded = json.dumps(line).encode()
            _raise_error(encoded, "bad_archive", "Docker could not load the archive")
            text += str(line.get("stream", ""))
        loaded = own_tags[0] if own_tags else text.rpartition("Loaded image ID:")[2].strip()
        found = self.inspect(loaded)
        if found is None:
            raise Failed(
                "load_failed", "Docker loaded the archive but does not show its image", hint="Look with: docker images"
            )
        self._tag(str(found["id"]), wanted)
        for own, old in before.items():
            if split(own) == wanted:
                continue
            if old is None:
                self.remove(own)
            elif old["id"] != found["id"]:
                self._tag(str(old["id"]), split(own))

    def _tag(self, image: str, wanted: tuple[str, str]) -> None:
        repository, tag = wanted
        self._client.act(lambda api: api.tag(image, repository, tag, force=True))

    def pull(self, reference: str, credentials: Credentials | None, progress: Progress) -> OciForm:
        """Pull from a registry; Docker keeps what a broken pull has got, and goes on from there.

        Raises Denied("registry_denied"), NotFound("image_not_found"), Unreachable("registry_unreachable").
        """
        repository, tag = split(reference)
        progress.step("docker-pull", f"pulling {reference}")
        pulled = pulling.PullProgress()
        try:
            # Docker reads a digest in the place of a tag.
            stream = self._client.stream(
                "POST", "/images/create", {"fromImage": repository, "tag": tag}, headers=_authorization(credentials)
            )
            with stream:

                def receive() -> bytes | None:
                    while (data := stream.recv(_LOOK)) is None:
                        progress.check()
                    return data

                for line in lines(receive):
                    _raise_error(line, "docker_failed", f"{reference} could not be pulled")
                    progress.report(pulled.feed(line), pulled.text)
                progress.report(1.0, pulled.text)  # of what is here already Docker may tell no layers
        except (Failed, NotFound) as error:
            raise pulling.pull_error(reference, error, credentials) from error
        return self._form(_joined(repository, tag))

    def inspect(self, reference: str) -> Mapping[str, object] | None:
        """`{id, size, created, command, digest, entrypoint, labels}`, or None when it is not there."""
        name = exact(reference)
        try:
            found = self._client.read(lambda api: api.inspect_image(name))
        except NotFound:
            return None
        config = found.get("Config") or {}
        digests = found.get("RepoDigests") or []
        return {
            "id": found["Id"],
            "size": int(found.get("Size") or 0),
            "created": found.get("Created"),
            "command": list(config.get("Cmd") or ()),
            "entrypoint": list(config.get("Entrypoint") or ()),
            "labels": dict(config.get("Labels") or {}),
            "digest": str(digests[0]).partition("@")[2] if digests else None,
        }

    def remove(self, reference: str) -> None:
        """Remove the tag, and the image when nothing else uses it. Gone: succeed. Raises Conflict("image_in_use").

        An id stands for the image without a tag: one that somebody has tagged stays.
        """
        name = exact(reference)
        if name.startswith("sha256:") and self._tags(name):
            return
        try:
            self._client.act(lambda api: api.remove_image(name))
        except NotFound:
            return
        except Conflict as error:
            raise Conflict(
                "image_in_use",
                f"the image {reference} is used by a container",
                hint="See which with: docker ps -a; remove those first.",
            ) from error

    def _tags(self, image: str) -> list[str]:
        try:
            return list(self._client.read(lambda api: api.inspect_image(image)).get("RepoTags") or ())
        except NotFound:
            return []

    def _form(self, reference: str) -> OciForm:
        found = self.inspect(reference)
        if found is None:
            raise NotFound(
                "image_not_found", f"Docker has no image {reference}", hint="See what there is with: triune image list"
            )
        return OciForm(id=str(found["id"]), reference=reference)


def split(reference: str) -> tuple[str, str]:
    """Return (repository, tag or digest); the tag is "latest" where none is given. Raises Invalid."""
    if not _REFERENCE.fullmatch(reference) or ".." in reference or "//" in reference:
        raise Invalid(
            "bad_reference",
            f"{reference!r} is not the name of an OCI image",
            hint="Write it as [REGISTRY/]NAME[:TAG], like debian:12 or registry.example/team/app:1.",
        )
    repository, at, digest = reference.rpartition("@")
    if at:
        return repository, digest
    head, colon, tag = reference.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (reference, "latest")


def _joined(repository: str, tag: str) -> str:
    return f"{repository}{'@' if ':' in tag else ':'}{tag}"


def exact(reference: str) -> str:
    """The reference in a form that Docker cannot take for the beginning of an id. Ids pass. Raises Invalid."""
    if reference.startswith("sha256:") and _REFERENCE.fullmatch(reference):
        return reference
    return _joined(*split(reference))


class _Entry(tarfile.TarInfo):
    """Some headers are read into memory whole, and a negative size leads back in the archive, without an end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        too_large = entry.type in _HEADERS and entry.size > _MAX_HEADER
        if too_large or entry.size < 0 or entry.type == tarfile.GNUTYPE_SPARSE:
            raise _bad_archive("an entry of it has no reasonable size")
        return entry

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise _bad_archive("it has a sparse file")


def archive_tags(path: Path) -> list[str] | None:
    """The tags a docker-save archive would set, or None for an OCI layout without them. Raises Invalid."""
    try:
        with tarfile.open(path, tarinfo=_Entry) as archive:
            names: dict[str, tarfile.TarInfo] = {}
            for number, member in enumerate(archive):
                if number > _MAX_ENTRIES or member.offset_data + member.size > _MAX_BYTES:
                    raise _bad_archive("it is too large")
                names[member.name.removeprefix("./")] = member
            if "manifest.json" not in names:
                if "oci-layout" in names:
                    return None
                raise _bad_archive("it has neither manifest.json nor oci-layout")
            manifest = names["manifest.json"]
            content: IO[bytes] | None = archive.extractfile(manifest) if manifest.isreg() else None
            if content is None or manifest.size > _MANIFEST_CAP:
                raise _bad_archive("its manifest.json is not a file of reasonable size")
            images = json.loads(content.read(_MANIFEST_CAP))
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError, zlib.error, LZMAError, RecursionError) as error:
        raise _bad_archive("it is not a readable tar archive") from error
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], dict):
        raise _bad_archive("it must hold exactly one image")
    tags = images[0].get("RepoTags") or []
    if not isinstance(tags, list):
        raise _bad_archive("its tags are not a list")
    for tag in tags:
        split(str(tag))
    return [str(tag) for tag in tags]


def _sweep(folder: Path) -> None:
    """Remove archives that a crash left: nobody holds them any more."""
    for path in folder.glob(f"{_SPOOL_PREFIX}*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _bad_archive(reason: str) -> Invalid:
    return Invalid(
        "bad_archive",
        f"the archive cannot be loaded: {reason}",
        hint="Make one with: docker save IMAGE (one image), or: skopeo copy docker://IMAGE oci-archive:FILE",
    )


def _label(key: str, value: str) -> str:
    """A LABEL instruction. Docker parses it like a line of a Dockerfile, where \\, " and $ have a meaning."""
    if not _LABEL_KEY.fullmatch(key):
        raise Invalid("bad_label", f"{key!r} is no name for a label", hint="Use a-z, 0-9, '.', '_' and '-'.")
    escaped = re.sub(r'([\\"$])', r"\\\1", single_line(value, f"the label {key}"))
    return f'LABEL {key}="{escaped}"'


def _authorization(credentials: Credentials | None) -> dict[str, str]:
    """The header that Docker passes on to the registry (Engine API, "Authentication")."""
    if credentials is None:
        return {}
    login = {"username": credentials.username, "password": credentials.password}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


def _raise_error(line: bytes, code: str, what: str) -> None:
    """Raise what a line of a progress stream says went wrong."""
    try:
        data = json.loads(line)
    except ValueError:
        return
    if not isinstance(data, dict) or not ("error" in data or "errorDetail" in data):
        return
    detail = data.get("errorDetail") or {}
    said = str(detail.get("message") or data.get("error") or "no message")
    kind: type[TriuneError] = Invalid if code == "bad_archive" else Failed
    raise kind(code, f"{what}: {said}", hint="Docker's own log may say more: journalctl -u docker")
