"""Fixtures of the rescue's tests: real images, skipped where they can't be fetched and nothing requires them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import required_engines
from tests.rescue import samples


def _fetched(name: str) -> Path:
    try:
        return samples.image(name)
    except samples.Unfetched as error:
        if required_engines():
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def image() -> Callable[[str], Path]:
    """`image("vmfs5")`: the path of a raw image that nobody may write to."""
    return _fetched


@pytest.fixture(scope="session")
def images() -> Callable[[str], list[Path]]:
    """`images("vmfs5-span")`: the images of a volume, first extent first."""
    return lambda volume: [_fetched(name) for name in samples.VOLUMES[volume]]
