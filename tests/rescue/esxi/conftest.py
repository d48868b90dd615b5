"""What the tests of ESXi hosts share: an image, a host that serves it, and an access of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.rescue.esxi.host import PASSWORD, Host, Manners, serving
from triune.services.rescue.esxi.access import Access, Passwords, Patience
from triune.services.rescue.esxi.address import parse_address
from triune.services.rescue.esxi.buffered import RemoteSource
from triune.services.rescue.esxi.known import KnownHosts
from triune.services.rescue.esxi.opening import open_address

SIZE = (3 << 20) + 1536
NAME = "mpx.vmhba0:C0:T0:L0"


@pytest.fixture(autouse=True)
def _no_keys_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, agent, known host or password of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SSH_AUTH_SOCK", "XDG_CONFIG_HOME", "TRIUNE_ESXI_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(7).randbytes(SIZE))
    return path


@pytest.fixture
def manners(image: Path) -> Manners:
    return Manners(devices={NAME: image, NAME + ":1": image})


@pytest.fixture
def host(manners: Manners) -> Iterator[Host]:
    with serving(manners) as served:
        yield served


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def access(tmp_path: Path, said: list[str]) -> Access:
    patience = Patience(connecting=PATIENCE, reading=PATIENCE, tries=4, first_pause=0.01, longest_pause=0.05)
    return Access(
        passwords=Passwords(ask=lambda who: PASSWORD),
        accept_new=True,
        known=KnownHosts(tmp_path / "config"),
        patience=patience,
        tell=said.append,
    )


@pytest.fixture
def opened(host: Host, access: Access) -> Iterator[Callable[..., RemoteSource]]:
    """Opens the device, with the access changed as asked; closes what it opened."""
    sources: list[RemoteSource] = []

    def _open(device: str = NAME, **changes: object) -> RemoteSource:
        source = open_address(parse_address(host.address(device)), replace(access, **changes))  # type: ignore[arg-type]
        sources.append(source)
        return source

    yield _open
    for source in sources:
        source.close()
