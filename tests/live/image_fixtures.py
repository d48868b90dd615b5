"""The image debian/12, really built, for every live test that starts something from it.

Kept between runs in /var/tmp/triune-tests/images/<key>, the key being a hash of what builds it, so that a run only
builds when the builder has changed. Use it by importing the fixture: `from tests.live.image_fixtures import images`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from triune.domain.operation import Silent
from triune.engines.registry import EngineSettings, engines
from triune.host.beneath import remove_tree
from triune.services import images as package
from triune.services.images import BuildOptions, Images

SHARED = Path("/var/tmp/triune-tests/images")
NAME = "debian/12"
# One package more than the image's own, which also shows that its keys are made in the instance.
OPTIONS = BuildOptions(packages=("openssh-server",))
_STALE = 24 * 3600


def builder_key() -> str:
    """A hash of the builder's files and of what is asked of it."""
    total = hashlib.sha256(json.dumps(OPTIONS.as_dict(), sort_keys=True).encode())
    folder = Path(package.__file__).parent
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()[:16]


def shared_cache(root: Path) -> None:
    """Let a folder of images use the downloads of all test runs."""
    root.mkdir(parents=True, exist_ok=True)
    (SHARED / "cache").mkdir(parents=True, exist_ok=True)
    if not (root / "cache").exists():
        (root / "cache").symlink_to(SHARED / "cache")


def built_images() -> Images:
    """Images with debian/12 built, in every form this host can hold."""
    root = SHARED / builder_key()
    SHARED.mkdir(parents=True, exist_ok=True)
    with (SHARED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shared_cache(root)
        os.utime(root)
        made = engines(EngineSettings(state_dir=SHARED / "state", enabled=("docker",)))
        found = Images(root, made, dict)
        found.sweep()
        found.build(NAME, OPTIONS, Silent())
        for old in SHARED.iterdir():
            if len(old.name) == 16 and old != root and old.stat().st_mtime < time.time() - _STALE:
                remove_tree(old)
    return found


@pytest.fixture(scope="session")
def images() -> Iterator[Images]:
    """See `built_images`."""
    if os.geteuid() != 0:
        pytest.skip("building an image needs root")
    yield built_images()
