"""Deleted disks, by the rules of what ESXi leaves: how many come back byte for byte.

`python -m tests.rescue.deletions` deletes machines from real volumes, scans, and prints the table for docs/RESCUE.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.rescue import oracle, samples, subject
from tests.rescue.guests import gpt_disk
from tests.rescue.machines import add_machine
from tests.rescue.overlay import Overlay
from tests.rescue.scoring import WHOLE, digest_of
from tests.rescue.writer import Content, Writer
from triune.disks.content import Lost
from triune.domain.rescue import FileKind, Status

GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Case:
    """`disks` are (size, blocks in use) of machines; all of these are deleted, their descriptors too where `all_`."""

    name: str
    disks: tuple[tuple[int, int], ...]
    scattered: bool = False
    all_: bool = False


@dataclass
class Outcome:
    """`whole` of `total` disks came back byte for byte; `blocks` of `used` blocks of data are right somewhere.
    `wrong` are called whole and aren't."""

    total: int = 0
    whole: int = 0
    used: int = 0
    blocks: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


CASES = (
    Case("200 MiB: its list was in the descriptor", ((200 * MIB, 60),), scattered=True),
    Case("450 MiB, thick, in order", ((450 * MIB, 450),)),
    Case("450 MiB, thick, scattered", ((450 * MIB, 450),), scattered=True),
    Case("4 GiB thin, scattered", ((4 * GIB, 120),), scattered=True),
    Case("three at once, in order", ((500 * MIB, 50), (900 * MIB, 50), (2 * GIB, 60))),
    Case("three at once, scattered", ((500 * MIB, 50), (900 * MIB, 50), (2 * GIB, 60)), scattered=True),
    Case("64 GiB thin, scattered", ((64 * GIB, 300),), scattered=True),
    Case("200 GiB thin, scattered", ((200 * GIB, 300),), scattered=True),
    Case("1 TiB thin, scattered", ((1 << 40, 200),), scattered=True),
    Case("900 MiB, descriptor and VMX deleted as well", ((900 * MIB, 200),), scattered=True, all_=True),
)


def simulate(image: str, case: Case) -> Outcome:
    """Add the machines, delete them, scan, compare."""
    writer = Writer(Overlay(samples.image(image)))
    disks: list[tuple[str, Content]] = []
    for number, (size, used) in enumerate(case.disks):
        content = gpt_disk(size, used, 100 + number)
        add_machine(writer, f"m{number}", content, scattered=case.scattered)
        disks.append((f"m{number}", content))
    for name, _ in disks:
        writer.delete(f"{name}/{name}-flat.vmdk")
        if case.all_:
            for end in (".vmdk", ".vmx"):
                writer.delete(f"{name}/{name}{end}")
    return _compared(writer, [content for _, content in disks])


def _compared(writer: Writer, disks: Sequence[Content]) -> Outcome:
    outcome = Outcome(total=len(disks), used=sum(len(content.used(MIB)) for content in disks))
    wanted = {(content.size, oracle.digest_of(sorted(content.pieces.items()), content.size)) for content in disks}
    known = {(fact.size, fact.digest) for fact in oracle.facts(oracle.dissect(writer.disk)).values()}
    best: dict[int, int] = {}
    begun = time.perf_counter()
    for volume in subject.scanned(writer.disk):
        for found in volume.walk(deleted=True):
            if found.kind != FileKind.FILE:
                continue
            content = volume.open(found)
            for number, disk in enumerate(disks):
                if found.size == disk.size or found.status in {Status.DELETED, Status.PARTIAL}:
                    best[number] = max(best.get(number, 0), _right_blocks(content, disk))
            try:
                key = found.size, digest_of(volume, found)
            except Lost:
                continue
            if key in wanted:
                outcome.whole += 1
                wanted.discard(key)
            elif found.status in WHOLE and key not in known:
                outcome.wrong.append(f"{found.path} is called {found.status}")
    outcome.seconds = time.perf_counter() - begun
    outcome.blocks = sum(best.values())
    return outcome


def _right_blocks(content: oracle.Content, disk: Content) -> int:
    """How many blocks of data are where they belong."""
    right = 0
    for number in disk.used(MIB):
        at = number * MIB
        if at >= content.size:
            continue
        wanted = disk.part(at, min(MIB, disk.size - at))
        held = bytearray(len(wanted))
        for run in content.runs(at, min(at + len(wanted), content.size)):
            if run.source is not None and not run.missing:
                data = run.source.read(run.at, run.length)
                held[run.offset - at : run.offset - at + len(data)] = data
        right += held == wanted
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", default="vmfs5,vmfs6")
    given = parser.parse_args()
    print("| deleted | volume | disks whole | blocks right | called whole and wrong | s |\n|---|---|---|---|---|---|")
    bad = 0
    for case in CASES:
        for image in given.volumes.split(","):
            got = simulate(image, case)
            bad += len(got.wrong)
            print(
                f"| {case.name} | {image} | {got.whole} of {got.total} | {got.blocks} of {got.used} "
                f"| {len(got.wrong)} | {got.seconds:.1f} |",
                flush=True,
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
