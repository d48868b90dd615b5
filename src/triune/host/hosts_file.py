"""A block of our own in /etc/hosts; every other line stays as it is, byte for byte.

Format: hosts(5). The block lies between `# triune begin` and `# triune end` lines; with a label other than the default
one several blocks live side by side. A name that another line already has, or that is the host's own, is left out: we
never shadow.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from triune.domain.errors import Failed
from triune.domain.names import single_line


def _markers(label: str) -> tuple[bytes, bytes]:
    return f"# {label} begin".encode(), f"# {label} end".encode()


def split(content: bytes, label: str = "triune") -> tuple[list[bytes], list[bytes]]:
    """Return (lines of others, lines of the block), without line ends.

    A beginning without an end of its own begins nothing: a damaged file never makes others' lines ours.
    """
    begin, end = _markers(label)
    others: list[bytes] = []
    ours: list[bytes] = []
    lines = content.split(b"\n")
    markers = [(number, line.strip()) for number, line in enumerate(lines) if line.strip() in (begin, end)]
    closed = {
        number for (number, line), (_, following) in itertools.pairwise(markers) if line == begin and following == end
    }
    inside = False
    for number, line in enumerate(lines):
        if line.strip() in (begin, end):
            inside = number in closed
        else:
            (ours if inside else others).append(line)
    return others, ours


def taken(lines: Sequence[bytes]) -> set[str]:
    """Every name these lines give an address to, in lower case."""
    names: set[str] = set()
    for line in lines:
        names.update(word.decode(errors="replace").lower() for word in line.partition(b"#")[0].split()[1:])
    return names


def compose(content: bytes, names: Mapping[str, Sequence[str]], label: str = "triune") -> bytes:
    """The file with its block replaced; `names` maps addresses to names. An empty mapping removes the block."""
    others, _ = split(content, label)
    reserved = taken(others) | {socket.gethostname().lower(), "localhost"}
    block: list[bytes] = []
    for address, words in names.items():
        free = [single_line(word, "a host name") for word in words if word.lower() not in reserved]
        # A short name that belongs to somebody else takes its long forms with it: they would disagree.
        if free and words[-1].lower() not in reserved:
            block.append(" ".join([single_line(address, "an address"), *free]).encode())
    if not block:
        return b"\n".join(others)
    begin, end = _markers(label)
    body = b"\n".join(others)
    if body and not body.endswith(b"\n"):
        body += b"\n"
    return body + b"\n".join([begin, *block, end]) + b"\n"


def write(path: Path, names: Mapping[str, Sequence[str]], label: str = "triune") -> bool:
    """Bring the block up to date; True when the file was changed.

    Follows a symlink to the real file, keeps mode and owner, and replaces it atomically; where it cannot be renamed
    over (a bind mount) it is written in place. Raises Failed("hosts_file") when neither works.
    """
    target = Path(os.path.realpath(path))
    try:
        with _locked(target.parent):
            content = target.read_bytes() if target.exists() else b""
            wanted = compose(content, names, label)
            if wanted == content:
                return False
            _replace(target, wanted)
    except OSError as error:
        raise Failed(
            "hosts_file",
            f"{path} could not be written: {error.strerror}",
            hint="Names of instances resolve inside the network only, until it can be written.",
        ) from None
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One of us at a time: another daemon's block must not come back as it was before."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(target: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=".triune-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if target.exists():
                before = target.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), before.st_mode & 0o7777)
            else:
                os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).rename(target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _overwrite(target, content)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _overwrite(target: Path, content: bytes) -> None:
    with target.open("r+b") as file:
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
