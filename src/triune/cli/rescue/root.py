"""The group `triune rescue`. Nothing of a command is imported before it is used."""

from __future__ import annotations

from collections.abc import Mapping

import click

from triune.cli.lazy import Lazy

# name: (module:attribute below triune.cli.rescue, help, section)
_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "scan": ("scan:scan", "Search for volumes and files, however damaged", "Look"),
    "ls": ("ls:ls", "List files: size, status, time", "Look"),
    "find": ("find:find", "List machines, disks, files by name, wherever they lie", "Look"),
    "stat": ("stat:stat", "Show all that is known of a file", "Look"),
    "cat": ("cat:cat", "Write a file to standard output", "Look"),
    "preview": ("preview:preview", "A first look: text, settings, a disk's partitions and folders", "Look"),
    "verify": ("verify:verify", "Tell whether a disk or a machine's file is whole; mend descriptors", "Look"),
    "mount": ("mount:mount", "Show a volume's files as a read-only folder here", "Look"),
    "umount": ("mount:umount", "Take a mounted volume's folder away", "Look"),
    "inside": ("inside:inside", "List and take out single files of a guest's disk", "Get back"),
    "extract": ("extract:extract", "Write files to a folder, with proof of every byte", "Get back"),
    "import": ("import_:import_machine", "Make an instance of a machine on a volume", "Get back"),
}


@click.group(cls=Lazy, package="triune.cli.rescue", table=_COMMANDS)
def rescue() -> None:
    """Get machines and disks back from what VMware left: VMFS volumes, VMDK and VMX files, whole or damaged.

    Works without the daemon, and without root on what you may read. Sources are never written to. A SOURCE is an image
    file, a block device or a partition; name all the extents of a volume that has several.
    """
