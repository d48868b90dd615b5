"""What the tests of the whole system share: the image, and one daemon for a module."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live.daemon import CACHE, Daemon

IMAGE = "debian/12"
ENGINES = ("lxc", "docker", "kvm")
FIXED = "norandmaps"


def data_folder(name: str) -> Path:
    """A daemon's data folder with the images of all others: building one takes half a minute."""
    shared, data = CACHE / "data" / "images", CACHE / name
    shared.mkdir(mode=0o711, parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "images").exists():
        (data / "images").symlink_to(shared)
    return data


@contextmanager
def separate_daemon(word: str, prefix: str, octet: int, rootless: Path | None = None) -> Iterator[Daemon]:
    """A daemon beside others, with folder, bridge and table called after `word`, in 10.`octet` or the next; without
    instances of this prefix before and after."""
    made = Daemon(
        data_folder(f"data-{word}"),
        bridge=f"t{word}0",
        table=f"triune_t{word}",
        domain=f"t{word}.internal",
        candidates=[f"10.{octet}.0.0/16", f"10.{octet + 1}.0.0/16"],
        rootless=rootless,
    )
    with made:
        made.remove_all(prefix)
        built_image(made)
        yield made
        made.remove_all(prefix)


def built_image(daemon: Daemon, *, plain: bool = False) -> None:
    """Build debian/12 unless the test data has it already; one daemon at a time, as they share their images.

    Its machines' programs lie at fixed addresses, unless it is to be `plain`, as users have it.
    """
    with (CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if IMAGE not in {image["name"] for image in daemon.json("image", "list")}:
            daemon.run("image", "build", IMAGE, timeout=600)
        if not plain:
            quicken(daemon.data / "images")


def quicken(images: Path) -> None:
    """Boot the image among these with FIXED.

    An emulator translates code anew for each address it runs at: a boot takes 7 s of processor time so, instead of 11.
    """
    path = images / (images / "names" / IMAGE).read_text().strip() / "manifest.json"
    manifest = json.loads(path.read_text())
    words = manifest["disk"]["cmdline"].split()
    if FIXED not in words:
        manifest["disk"]["cmdline"] = " ".join([*words, FIXED])
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(manifest, indent=1))
        fresh.rename(path)
