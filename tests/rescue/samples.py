"""Real VMFS volumes: the ones that the source distribution of dissect.vmfs 3.13 carries, and a VMFS3 of our own.

AGPL data are fetched by pip against a pinned hash and never committed. Each image is unpacked once, sparse, to
`$TRIUNE_TEST_CACHE/vmfs/NAME.img`: shared by all runs, so nobody writes to one.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.patience import PATIENCE

CACHE = Path(os.environ.get("TRIUNE_TEST_CACHE", "/var/tmp/triune-tests")) / "vmfs"
DATA = Path(__file__).parents[1] / "data" / "rescue" / "vmfs"
PROJECT, VERSION = "dissect.vmfs", "3.13"
SHA256 = "904a4116b944acfc6a7a9de013ae1db14c760cb76138fd77c6a5b510b98c828d"
CHUNK = 1 << 20

PLAIN = (
    "vmfs5",
    "vmfs6",
    "vmfs5d",
    "vmfs6d",
    "vmfs5l",
    "vmfs6l",
    "vmfs5ld",
    "vmfs6ld",
    "vmfs5-no-dense-sbpc",
    "vmfs5-resource-optimized",
    "vmfs6-resource-optimized",
)
SPANNED = {"vmfs5-span": ("vmfs5-span-0", "vmfs5-span-1"), "vmfs6-span": ("vmfs6-span-0", "vmfs6-span-1")}
REFORMATTED = ("zero5", "zero6")
# Every volume by its name, with the images it is made of.
VOLUMES: dict[str, tuple[str, ...]] = {
    "vmfs3": ("vmfs3",),
    **{name: (name,) for name in (*PLAIN, *REFORMATTED)},
    **SPANNED,
}


class Unfetched(Exception):
    """The samples can't be had here: no network, or something else came than the pinned file."""


def image(name: str) -> Path:
    """The raw image of that name (a part of a spanned volume has its own). Raises Unfetched."""
    path = CACHE / f"{name}.img"
    if path.exists():
        return path
    with _locked():
        if not path.exists():
            chunks = _vmfs3() if name == "vmfs3" else _unzipped(_member(name))
            _write_sparse(path, chunks)
    return path


def images(volume: str) -> list[Path]:
    """The images of a volume, first extent first."""
    return [image(name) for name in VOLUMES[volume]]


def packed(path: str) -> Path:
    """A file of the source distribution by its path in it, such as `tests/_data/lvm/lvm5.bin.gz`."""
    found = CACHE / f"dissect_vmfs-{VERSION}" / path
    if not found.exists():
        with _locked():
            found = _distribution() / path
    return found


@contextmanager
def _locked() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _member(name: str) -> Path:
    folder = "vmfs/span" if "-span-" in name else "vmfs"
    return _distribution() / "tests" / "_data" / folder / f"{name}.bin.gz"


def _distribution() -> Path:
    """The unpacked source distribution; fetched when it isn't there. The lock is held."""
    folder = CACHE / f"dissect_vmfs-{VERSION}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        wanted = Path(scratch) / "requirements"
        wanted.write_text(f"{PROJECT}=={VERSION} --hash=sha256:{SHA256}\n")
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PROJECT, "-r", str(wanted)]
        done = subprocess.run([*argv, "-d", scratch], capture_output=True, text=True, check=False, timeout=PATIENCE)
        if done.returncode != 0:
            raise Unfetched(f"pip can't fetch {PROJECT} {VERSION}: {done.stderr.strip()[-400:]}")
        with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
            archive.extractall(scratch)  # its hash is pinned; Debian 12's tarfile knows no filters
        (Path(scratch) / folder.name).rename(folder)
    return folder


def _write_sparse(path: Path, chunks: Iterator[bytes]) -> None:
    """Zeros become holes; the file appears when it is whole."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    scratch = Path(name)
    try:
        with os.fdopen(fd, "wb") as out:
            for chunk in chunks:
                if chunk.count(0) == len(chunk):
                    out.seek(len(chunk), os.SEEK_CUR)
                else:
                    out.write(chunk)
            out.truncate(out.tell())
        scratch.chmod(0o444)
        scratch.rename(path)
    except BaseException:
        scratch.unlink()
        raise


def _unzipped(packed_image: Path) -> Iterator[bytes]:
    with gzip.open(packed_image) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _number(stream: IO[bytes]) -> int:
    """A LEB128 number."""
    value = shift = 0
    while True:
        byte = stream.read(1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7


def _vmfs3() -> Iterator[bytes]:
    """The blocks of our own sample: its README has the format."""
    with (DATA / "vmfs3-blocks.bin").open("rb") as stream:
        head = stream.read(8)
        if head[:7] != b"VMFSIMG" or head[7] < 2:
            raise Unfetched("vmfs3-blocks.bin is none")
        while kind := stream.read(1):
            if kind == b"\x00":
                yield stream.read(_number(stream) * 4).ljust(512, b"\x00")
            elif kind == b"\x01":
                yield bytes((_number(stream) + 1) * 512)
            else:
                stream.read(4)


def copy(name: str, path: Path) -> Path:
    """A sparse copy of an image that may be written to; whoever asks removes it."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(image(name)), str(path)], check=True)
    path.chmod(0o644)
    return path
