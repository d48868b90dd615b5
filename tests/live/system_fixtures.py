"""What the tests of the whole system share: the image, and one daemon for a module."""

from __future__ import annotations

from tests.live.daemon import Daemon

IMAGE = "debian/12"
ENGINES = ("lxc", "docker", "kvm")


def built_image(daemon: Daemon) -> None:
    """Build debian/12 unless the test data has it already."""
    if IMAGE not in {image["name"] for image in daemon.json("image", "list")}:
        daemon.run("image", "build", IMAGE, timeout=600)
