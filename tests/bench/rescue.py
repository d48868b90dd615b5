"""The rescue beside `cat`, `cp` and `qemu-img`, on images of its own; `python -m tests.bench.rescue` measures it alone.

Everything is in memory on both sides, where this host has room for it, or in the page cache; what is read a second
time is written to a disk.
The 64 TB volume is a real VMFS6 whose LVM, device and counts of blocks say 64 TB: a sparse file in memory, with all of
its sample's files on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING

from tests.bench.place import SHARED, steady, touched, words
from tests.rescue import samples
from tests.rescue.layout import BASE, FBB
from tests.rescue.machines import FileContent
from tests.rescue.overlay import Overlay
from tests.rescue.writer import Writer
from triune.services.machines import transfer

if TYPE_CHECKING:
    from tests.bench.__main__ import Row

TRIUNE = Path(sys.executable).parent / "triune"
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


class Images:
    """What is measured on. `folder` takes some 6 GiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = folder / "random.img"
        with self.random.open("wb") as out:
            for _ in range(2048):
                out.write(os.urandom(MIB))
        self.file = folder / "file.bin"
        with self.file.open("wb") as out:
            for _ in range(1024):
                out.write(os.urandom(MIB))
        self.volume = self._volume(folder / "volume.img")
        self.large = self._sixty_four(_large(folder))
        self.vmdk = folder / "disk.vmdk"
        subprocess.run(["qemu-img", "convert", "-O", "vmdk", self.file, self.vmdk], check=True)

    def _volume(self, path: Path) -> Path:
        """A VMFS5 with a file of 1 GiB and nothing but random bytes in it."""
        disk = Overlay(samples.image("vmfs5-resource-optimized"))
        Writer(disk).make_file("big.bin", FileContent(self.file), "pointer")
        return disk.save(path)

    @staticmethod
    def _sixty_four(path: Path) -> Path:
        """A VMFS6 of 64 TB: what counts its blocks, in the LVM and in the volume, says so."""
        disk = Overlay(samples.image("vmfs6"))
        size = 64 * TIB
        disk.size = size + BASE
        disk.write(0x100000 + 0x5E, pack("<Q", disk.size))
        disk.write(0x101000, pack("<Q", size))
        disk.write(0x101080, pack("<Q", size // (256 * MIB) - 1))
        writer = Writer(disk)
        meta = writer.area(FBB).meta
        blocks = size // writer.file_block
        for head, count in ((0, blocks // 512), (0x1000, blocks)):
            disk.write(BASE + writer.file_offset(meta, head) + 0x14, pack("<I", count & 0xFFFFFFFF))
        return disk.save(path)


@contextmanager
def images(folder: Path) -> Iterator[Images]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield Images(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _large(folder).unlink(missing_ok=True)


def _large(folder: Path) -> Path:
    """Where the file of 64 TB is: few file systems hold one, memory does."""
    return SHARED / f"triune-{folder.name}-{os.getpid()}.img"


def quiet(*argv: str | Path) -> None:
    """Run it; its standard output goes nowhere."""
    subprocess.run([str(word) for word in argv], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# A child's high-water mark begins with its parent's at the fork: a small process in between has nearly none.
_PEAK = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak(*argv: str | Path) -> float:
    """The most memory that a command took, in MiB."""
    words = [str(word) for word in argv]
    done = subprocess.run([sys.executable, "-S", "-c", _PEAK, *words], capture_output=True, check=True)
    return int(done.stdout) / 1024


def rows(folder: Path) -> list[Row]:
    """Every row of the rescue."""
    from tests.bench.__main__ import Row, in_turn, ratio_row, seconds

    with images(steady(8 * GIB, folder)) as made, tempfile.TemporaryDirectory(dir=folder.parent) as disk:
        scratch, on_disk, where = made.folder / "out", Path(disk) / "out", words(made.folder)

        def fresh() -> None:
            for used in (scratch, on_disk):
                shutil.rmtree(used, ignore_errors=True)
                used.mkdir()
            os.sync()  # else what was removed is discarded on the disk at the expense of who flushes next
            if scratch.is_relative_to(SHARED):
                touched(3 * GIB)

        cached = Path(
            shutil.copy(made.random, disk)
        )  # only read: a disk's page cache is as steady, and as users have it
        scan = in_turn(
            lambda _: quiet(TRIUNE, "rescue", "scan", cached, "--session", scratch / "session"),
            lambda _: quiet("cat", cached),
            7,
            fresh,
        )
        cached.unlink()
        what = "`triune rescue scan`, 2 GiB of random data in the page cache"
        found = [ratio_row(what, scan, 1.25, "`cat` to /dev/null")]
        found += _extractions(made, scratch, on_disk, fresh)
        plain = transfer.Plain(path=made.vmdk, format="vmdk")
        convert = in_turn(
            lambda _: transfer.convert_file(plain, scratch / "ours.qcow2", lambda _: None),
            lambda _: quiet("qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", made.vmdk, scratch / "theirs.qcow2"),
            5,
            fresh,
        )
        found.append(ratio_row(f"VMDK of 1 GiB to qcow2 {where}", convert, 1.11, "`qemu-img convert`"))
        listing, _ = in_turn(lambda _: quiet(TRIUNE, "rescue", "ls", "-R", made.large), lambda _: None, 5, lambda: None)
        slowest = max(listing)
        found.append(Row("`triune rescue ls -R`, 64 TB volume", seconds(listing), "", "", "< 1 s", slowest < 1))
        for what, argv in (
            ("scan, 2 GiB of random data", ("scan", made.random, "--session", scratch / "peak")),
            ("scan, 64 TB volume", ("scan", made.large, "--session", scratch / "peak64")),
            ("extract, 1 GiB", ("extract", made.volume, "big.bin", "--to", scratch / "peak-to")),
        ):
            fresh()
            used = peak(TRIUNE, "rescue", *argv)
            found.append(Row(f"memory: {what}", f"{used:.0f} MiB", "", "", "< 500 MiB", used < 500))
    return found


# The same as `extract` by hand: a copy, its hash, and the hash of what the disk has of it.
_HASHED = "cp --sparse=always {0} {1} && openssl dgst -sha256 {1}"
_READ_TWICE = _HASHED + " && sync {1} && dd if={1} iflag=direct bs=4M | openssl dgst -sha256"


@dataclass(frozen=True)
class _Case:
    """One way to extract. `cold`: from a disk, and not out of the page cache."""

    what: str
    options: tuple[str, ...]
    beside: tuple[str, ...]
    on_disk: bool = False
    cold: bool = False


_COPIED = "cp --sparse=always {0} {1}"
_CASES = (
    _Case("without hashes", ("--hash", "none", "--no-verify"), (_COPIED,)),
    _Case("SHA-256", ("--no-verify",), (_COPIED, _HASHED)),
    _Case("SHA-256, from a disk that is not in the page cache", ("--no-verify",), (_COPIED,), on_disk=True, cold=True),
    _Case("SHA-256, read a second time", (), (_COPIED, _READ_TWICE), on_disk=True),
)


def _extractions(made: Images, memory: Path, disk: Path, fresh: Callable[[], None]) -> Iterator[Row]:
    """`extract` beside `cp`, which hashes nothing, and beside the same work by hand."""
    from tests.bench.__main__ import in_turn, ratio_row

    stored = {one: Path(shutil.copy(one, disk.parent)) for one in (made.volume, made.file)}

    def forgotten() -> None:
        fresh()
        for one in stored.values():  # theirs alone: Triune's own modules stay where `cp` and `openssl` stay
            with one.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    for case in _CASES:
        scratch = disk if case.on_disk else memory
        volume, file = (stored[one] if case.cold else one for one in (made.volume, made.file))
        argv = (TRIUNE, "rescue", "extract", volume, "big.bin", "--to", scratch / "to", *case.options)
        for theirs in case.beside:
            by_hand = ("sh", "-c", theirs.format(file, scratch / "copy"))
            times = in_turn(
                lambda _, argv=argv: quiet(*argv),  # type: ignore[misc]
                lambda _, by_hand=by_hand: quiet(*by_hand),  # type: ignore[misc]
                5,
                forgotten if case.cold else fresh,
            )
            command = " ".join(("triune rescue extract", *case.options))
            alike = "" if theirs == _COPIED else ", beside the same by hand"
            named = theirs.format("FILE", "COPY").replace("|", "\\|")
            yield ratio_row(f"`{command}`, 1 GiB {words(scratch)}, {case.what}{alike}", times, 1.25, f"`{named}`")


def main() -> None:
    for row in rows(Path("/var/tmp/triune-tests/bench-rescue")):
        kept = "yes" if row.met else "**no**"
        print(f"| {row.what} | {row.ours} | {row.theirs} | {row.ratio} | {row.budget} | {kept} |")


if __name__ == "__main__":
    main()
