"""Disks of volumes: made, grown, shrunk and converted by qemu-img, always into a new file where that is more than a
grown end.

What a guest wrote is never guessed at: formats are declared in every call, and the tools run under limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Invalid, Unsupported
from triune.domain.units import format_size
from triune.host.run import run
from triune.host.watched import run_watched

Tick = Callable[[float | None], None]

SECTOR = 512
LARGEST = 1 << 50
_EXT_MAGIC = (0x438, b"\x53\xef")
_KNOWN = ((0, b"XFSB", "XFS"), (0x10040, b"_BHRfS_M", "btrfs"), (3, b"NTFS    ", "NTFS"))
_MINIMUM = re.compile(r"minimum size of the filesystem: (\d+)")
_BLOCK_SIZE = re.compile(r"^Block size:\s+(\d+)$", re.MULTILINE)
_LIMITS = ("prlimit", f"--as={4 << 30}", "--core=0")
_CHECK_SECONDS = 3600


def make(path: Path, form: str, size: int) -> None:
    """An empty disk, its blocks not reserved."""
    run(["qemu-img", "create", "-q", "-f", form, path, str(size)])
    path.chmod(0o600)


def virtual_size(path: Path, form: str) -> int:
    """Bytes that the guest sees; also while a virtual machine has it open."""
    info = run([*_LIMITS, "qemu-img", "info", "-U", "--output=json", "-f", form, path]).stdout
    return int(json.loads(info)["virtual-size"])


def check_size(size: int) -> int:
    """A size that a disk can have: whole sectors. Raises Invalid."""
    if not 1 << 20 <= size <= LARGEST:
        raise Invalid(
            "bad_size",
            f"a disk of {format_size(size)} can't be made",
            hint=f"Ask for 1 MiB to {format_size(LARGEST)}.",
        )
    return -(-size // SECTOR) * SECTOR


def grow(path: Path, form: str, size: int, work: Path, tick: Tick) -> None:
    """Make it larger; `work` is a path for a new file where the format can't be resized in place."""
    if form != "vmdk":
        run(["qemu-img", "resize", "-q", "-f", form, path, str(size)])
        return
    raw = work.with_suffix(".raw")
    convert(path, form, raw, "raw", tick)
    run(["qemu-img", "resize", "-q", "-f", "raw", raw, str(size)])
    convert(raw, "raw", work, form, tick)
    raw.unlink()
    work.replace(path)


def convert(source: Path, form: str, target: Path, new: str, tick: Tick) -> None:
    """Write the disk in another format to `target`, on disk before it returns."""
    options = ["-o", "compat=1.1"] if new == "qcow2" else []
    argv = ["qemu-img", "convert", "-p", "-f", form, "-O", new, *options, str(source), str(target)]
    run_watched(argv, tick)
    target.chmod(0o600)
    run(["sync", "-d", target], timeout=_CHECK_SECONDS)


def same(left: Path, left_form: str, right: Path, right_form: str, tick: Tick) -> None:
    """Raise Failed("conversion_differs") unless both disks hold the same bytes."""
    argv = ["qemu-img", "compare", "-p", "-f", left_form, "-F", right_form, str(left), str(right)]
    try:
        run_watched(argv, tick)
    except Failed as error:
        raise Failed(
            "conversion_differs",
            f"the new disk does not hold what the old one does ({error.message}); the old one is kept",
            hint="Check the host's disk and memory, and repeat.",
        ) from error


def shrink(path: Path, form: str, size: int, work: Path, tick: Tick) -> None:
    """Make it smaller, if what is on it provably fits: nothing at all, or one ext2/3/4 without a partition table.

    Everything happens on a copy beside `work`, which takes the disk's place at the end. Raises Conflict
    ("does_not_fit"), Unsupported("cannot_shrink").
    """
    raw = work.with_suffix(".raw")
    try:
        convert(path, form, raw, "raw", tick)
        kind = _content(raw)
        if kind == "ext":
            _shrink_ext(raw, size)
        elif kind:
            raise Unsupported(
                "cannot_shrink",
                f"the disk holds {kind}, which can't be made smaller from outside",
                hint="Make a new volume and copy the files over inside an instance.",
            )
        run(["qemu-img", "resize", "-q", "--shrink", "-f", "raw", raw, str(size)])
        if form == "raw":
            raw.replace(path)
            return
        convert(raw, "raw", work, form, tick)
        work.replace(path)
    finally:
        raw.unlink(missing_ok=True)
        work.unlink(missing_ok=True)


def _content(raw: Path) -> str:
    """ "" for an empty disk, "ext" for an ext2/3/4 that fills it, else words for what is there."""
    if _is_empty(raw):
        return ""
    with raw.open("rb") as file:
        head = file.read(0x11000)
    if head.startswith(_EXT_MAGIC[1], _EXT_MAGIC[0]):
        return "ext"
    for offset, mark, name in _KNOWN:
        if head.startswith(mark, offset):
            return name
    if head[510:512] == b"\x55\xaa" or head.startswith(b"EFI PART", 512):
        return "a partition table"
    return "data of an unknown kind"


def _is_empty(raw: Path) -> bool:
    """Whether there is nothing but zeros. The copy is sparse: qemu-img leaves zeros out."""
    mapped = json.loads(run(["qemu-img", "map", "--output=json", "-f", "raw", raw], timeout=_CHECK_SECONDS).stdout)
    return not any(extent["data"] and not extent["zero"] for extent in mapped)


def _shrink_ext(raw: Path, size: int) -> None:
    checked = run([*_LIMITS, "e2fsck", "-f", "-y", raw], check=False, timeout=_CHECK_SECONDS)
    if checked.status > 1:  # e2fsck(8): 1 is "errors corrected"
        raise Failed(
            "damaged_filesystem",
            "the file system on the disk is damaged, so nothing says that its data fits",
            hint="Repair it inside an instance: e2fsck.",
        )
    block = _BLOCK_SIZE.search(run([*_LIMITS, "dumpe2fs", "-h", raw]).text)
    minimum = _MINIMUM.search(run([*_LIMITS, "resize2fs", "-P", raw], timeout=_CHECK_SECONDS).text)
    if block is None or minimum is None:
        raise Failed("command_failed", "resize2fs did not say how small the file system can be", hint="Try it by hand.")
    least = int(minimum[1]) * int(block[1])
    if least > size:
        raise Conflict(
            "does_not_fit",
            f"the files on the disk need {format_size(least)}, more than {format_size(size)}",
            hint=f"Ask for at least {format_size(least + (1 << 20))}, or remove files.",
            least=least,
        )
    run([*_LIMITS, "resize2fs", raw, f"{size // 1024}K"], timeout=_CHECK_SECONDS)
    run([*_LIMITS, "e2fsck", "-f", "-n", raw], timeout=_CHECK_SECONDS)
