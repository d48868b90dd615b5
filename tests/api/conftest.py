from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.house import House


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    yield house
    house.close()


@pytest.fixture
def house(served: House) -> Iterator[House]:
    served.clear()
    yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
