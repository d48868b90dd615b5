"""What the tests of the whole system share: the image, and one daemon for a module."""

from __future__ import annotations

import fcntl
from pathlib import Path

from tests.live.daemon import CACHE, Daemon

IMAGE = "debian/12"
ENGINES = ("lxc", "docker", "kvm")


def data_folder(name: str) -> Path:
    """A daemon's data folder with the images of all others: building one takes half a minute."""
    shared, data = CACHE / "data" / "images", CACHE / name
    shared.mkdir(mode=0o711, parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "images").exists():
        (data / "images").symlink_to(shared)
    return data


def built_image(daemon: Daemon) -> None:
    """Build debian/12 unless the test data has it already; one daemon at a time, as they share their images."""
    with (CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if IMAGE not in {image["name"] for image in daemon.json("image", "list")}:
            daemon.run("image", "build", IMAGE, timeout=600)
