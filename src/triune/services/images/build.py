"""Building an image from a distribution's packages: one tree, and a disk made of it."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from triune.domain.errors import Unsupported
from triune.domain.operation import Progress
from triune.services.images.bootdisk import make_disk
from triune.services.images.customize import customize, installed
from triune.services.images.digest import tree_sum
from triune.services.images.manifest import DiskFiles, Manifest, TreeFiles
from triune.services.images.options import BuildOptions
from triune.services.images.releases import Release, release
from triune.services.images.rootfs import bootstrap
from triune.services.images.store import ImageStore

# A tree, a sparse disk of it and its packed copy, with room for added packages.
SPACE = 2 << 30
TREE = "private/tree"


def build_image(store: ImageStore, name: str, options: BuildOptions, progress: Progress) -> Manifest:
    """Build and publish the image; its name is not given yet. Raises Failed, Unsupported or Cancelled."""
    chosen = release(options.release or name)
    if platform.machine() != "x86_64":
        raise Unsupported(
            "no_recipe_for_machine",
            f"{name} can't be built on {platform.machine()}: the recipe is for x86_64",
            hint="Import a root tree or a disk instead: triune image import FILE --name NAME",
        )
    store.require_space(SPACE, f"Building {name}")
    with store.work("build") as work:
        progress.step("packages", f"building {name} from packages")
        (work / "private").mkdir(mode=0o700)
        tree = work / TREE
        bootstrap(tree, chosen, options, store.cache / "apt" / chosen.suite, progress)
        packages = installed(tree)
        customize(tree, chosen, options, packages)
        progress.step("disk", "making the bootable disk")
        disk = make_disk(tree, work, chosen, options, cloud_init="cloud-init" in packages, progress=progress)
        progress.step("digest", "computing the digest")
        manifest = _manifest(work, name, chosen, options, packages, disk, progress)
        progress.step("publish", f"publishing {name}")
        store.publish(work, manifest)
    return manifest


def wanted_options(options: BuildOptions) -> dict[str, object]:
    """The options as a manifest holds them."""
    wanted: dict[str, object] = json.loads(json.dumps(options.as_dict()))
    return wanted


def _manifest(
    work: Path,
    name: str,
    chosen: Release,
    options: BuildOptions,
    packages: dict[str, str],
    disk: DiskFiles,
    progress: Progress,
) -> Manifest:
    wanted = wanted_options(options)
    # The disk follows from the tree and the options; what it is booted with is our own and changes with us.
    booted = [disk.cmdline, *(_file_sum(work / name) for name in (disk.kernel, disk.initrd) if name)]
    salt = json.dumps([name, wanted, booted], sort_keys=True).encode()
    total = tree_sum(work / TREE, progress, salt=salt)
    return Manifest(
        name=name,
        digest=total.digest,
        created=datetime.now(UTC),
        source=f"built from {chosen.distribution} {chosen.suite}",
        tree=TreeFiles(
            path=TREE,
            init="/sbin/init",
            size=total.size,
            cloud_init="cloud-init" in packages,
            fixed_hostname=not options.hostname_from_instance,
        ),
        disk=disk,
        command=("sleep", "infinity"),
        options=wanted,
        packages=packages,
    )


def _file_sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
