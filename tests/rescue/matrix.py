"""The damage matrix: what comes back of every volume after every damage, beside the independent readers.

`python -m tests.rescue.matrix` prints the table for docs/RESCUE.md. A cell is files by content / of these under
their full path; `possible` says the same of what was left untouched: descriptor, map and bytes / and all names.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.rescue import oracle, subject
from tests.rescue.damages import ONE, PAIRS, damaged
from tests.rescue.filled import WITHOUT_LVM, Filled, filled
from tests.rescue.overlay import Joined, Overlay
from tests.rescue.scoring import Score, score
from tests.rescue.survivors import Survivors, survivors

FEW = [
    ("none",),
    ("superblock",),
    ("root directory block",),
    ("root FD",),
    ("first FDC cluster",),
    (".fbb.sf",),
    ("superblock", "first FDC cluster"),
]
LVM_TOO = [("LVM header 4 KiB",), ("LVM area 16 MiB",), ("LVM area 16 MiB", "superblock")]
LIKE_FEW = {
    "vmfs5l": True,
    "vmfs6l": True,
    "vmfs5d": False,
    "vmfs6d": False,
    "vmfs5ld": False,
    "vmfs6ld": False,
    "vmfs5-no-dense-sbpc": True,
    "vmfs5-span": True,
    "vmfs6-span": True,
    "zero5": True,
    "zero6": True,
}


def cases() -> list[tuple[str, tuple[str, ...]]]:
    """(volume, damages) of every row."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for name in ("vmfs5", "vmfs6"):
        rows = [*((one,) for one in ONE), *PAIRS]
        found += [(name, row) for row in rows if name == "vmfs5" or ".pbc.sf FD" not in row]  # VMFS6 has it empty
    for name, lvm in LIKE_FEW.items():
        found += [(name, row) for row in (*FEW, *(LVM_TOO if lvm else []))]
    return found


@cache
def volume(name: str) -> Filled:
    """A volume, made once."""
    return filled(name)


@dataclass(frozen=True)
class Row:
    """What came of one damage of one volume."""

    name: str
    damages: tuple[str, ...]
    possible: Survivors
    ours: Score


def measured(name: str, *damages: str) -> Row:
    """Damage a copy, scan it, compare."""
    healthy = volume(name)
    copy = damaged(healthy.disk, healthy.writer, *damages)
    volumes = subject.scanned(*reversed(copy.devices))
    return Row(name, damages, survivors(healthy.writer, copy), score(volumes, healthy.facts))


# --- the others -------------------------------------------------------------------------------------------------------


def dissect_reads(name: str, copy: Overlay | Joined) -> str:
    """How many files dissect.vmfs reads rightly, or why it reads none."""
    expected = {path: fact for path, fact in volume(name).facts.items() if fact.kind in {"file", "link"}}
    try:
        found = dict(_each(oracle.dissect(*copy.devices, lvm=name not in WITHOUT_LVM).root, ""))
    except Exception as error:
        return type(error).__name__
    return str(sum(1 for path, digest in found.items() if path in expected and expected[path].digest == digest))


def _each(folder: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every file that can be read, the rest passed over."""
    for entry in folder.iterdir():
        if entry.name in {".", ".."}:
            continue
        try:
            fd = entry.fd
            if fd.is_system() or fd.is_rdm():
                continue
            if fd.is_dir():
                yield from _each(fd, f"{path}{entry.name}/")
            else:
                yield path + entry.name, oracle.digest_of(oracle._stored(fd), fd.size)
        except Exception:
            continue


def debugvmfs_lists(name: str, copy: Overlay | Joined, folder: Path) -> str:
    """How many files of the root debugvmfs lists, or how it ends."""
    paths = [disk.save(folder / f"{number}.img") for number, disk in enumerate(copy.devices)]
    program = "debugvmfs6" if "6" in name else "debugvmfs"
    try:
        done = subprocess.run(
            [program, *map(str, paths), "ls", "/"], capture_output=True, text=True, check=False, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    finally:
        for path in paths:
            path.unlink()
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    names = [line for line in done.stdout.split() if line not in {".", ".."}]
    return f"lists {len(names)}" if done.returncode == 0 else "fails"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", default="")
    parser.add_argument("--others", action="store_true", help="the independent readers beside (slow)")
    given = parser.parse_args()
    chosen = [case for case in cases() if not given.volumes or case[0] in given.volumes.split(",")]
    print("| volume | zeroed or cut | possible | rescue | wrong |" + (" dissect | debugvmfs |" if given.others else ""))
    print("|---" * (7 if given.others else 5) + "|")
    bad = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        for name, damages in chosen:
            row = measured(name, *damages)
            bad += len(row.ours.wrong) + len(row.ours.failed)
            line = f"| {name} | {' + '.join(damages)} | {len(row.possible.content)} / {len(row.possible.named)} "
            line += f"| {row.ours.content} / {row.ours.paths} | {len(row.ours.wrong) + len(row.ours.failed)} |"
            if given.others:
                copy = damaged(volume(name).disk, volume(name).writer, *damages)
                line += f" {dissect_reads(name, copy)} | {debugvmfs_lists(name, copy, Path(scratch))} |"
            print(line, flush=True)
            for why in (*row.ours.wrong[:3], *row.ours.failed[:3]):
                print(f"<!-- {why} -->", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
