"""Who may publish what."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Conflict, Invalid, Unreachable
from triune.domain.network import Publish, parse_publish
from triune.engines.base import Engine
from triune.services.networks.ports import Ports, same
from triune.store import SqliteStore


class Native:
    """An engine that publishes by itself."""

    def __init__(self, told: Mapping[str, Sequence[str]] | Exception) -> None:
        self._told = told

    def published(self) -> Mapping[str, Sequence[str]]:
        if isinstance(self._told, Exception):
            raise self._told
        return self._told


def engines(told: Mapping[str, Sequence[str]] | Exception) -> Mapping[str, Engine]:
    found: dict[str, Any] = {"a": SimpleNamespace(ports=None), "b": SimpleNamespace(ports=Native(told))}
    return cast("Mapping[str, Engine]", found)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "db")
    yield store
    store.close()


@pytest.fixture(autouse=True)
def quiet_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triune.services.networks.ports.listeners", list)


def parsed(*texts: str) -> list[Publish]:
    return [parse_publish(text) for text in texts]


def test_another_instances_port_is_named(store: SqliteStore) -> None:
    ports = Ports(store, engines({"shop": ["127.0.0.1:9090:90"]}))
    ports.put("web", "10.87.0.10", parsed("8080:80"))
    with pytest.raises(Conflict, match="port 8080/tcp cannot be published for db: web has it"):
        ports.check("db", parsed("8080:5432"), native=False)
    with pytest.raises(Conflict, match="shop has it"):
        ports.check("db", parsed("9090:1"), native=False)
    ports.check("db", parsed("8080:53/udp", "192.0.2.2:9090:1"), native=False)
    ports.check("web", parsed("8080:81"), native=False)


def test_duplicates_within_one_request_are_invalid(store: SqliteStore) -> None:
    ports = Ports(store, engines({}))
    with pytest.raises(Invalid, match="8080/tcp is published twice"):
        ports.check("web", parsed("8080:80", "127.0.0.1:8080:81"), native=False)


def test_a_process_of_the_host_is_named(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ports = Ports(store, engines({}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        with pytest.raises(Conflict, match=r"\(pid \d+\) has it"):
            ports.check("web", parsed(f"{number}:80"), native=False)
        ports.check("web", parsed(f"127.0.0.9:{number}:80"), native=False)
        own = Ports(store, engines({"web": [f"{number}:80"]}))
        own.check("web", parsed(f"{number}:80"), native=True)


def test_an_engine_that_is_down_or_says_odd_things_hinders_nobody(store: SqliteStore) -> None:
    down = Ports(store, engines(Unreachable("engine_unreachable", "down")))
    down.check("web", parsed("8080:80"), native=False)
    odd = Ports(store, engines({"web": ["[::]:80:80", "8080:80"]}))
    assert odd.all() == {"web": tuple(parsed("8080:80"))}


def test_what_is_put_is_read_back_renamed_and_deleted(store: SqliteStore) -> None:
    ports = Ports(store, engines({}))
    wanted = parsed("8080:80", "127.0.0.1:5353:53/udp")
    ports.put("web", "10.87.0.10", wanted)
    ports.rename("web", "shop")
    assert ports.own() == {"shop": ("10.87.0.10", tuple(wanted))}
    assert ports.delete("shop")
    assert not ports.delete("shop")


_PUBLISH = st.builds(
    Publish,
    host_port=st.integers(1, 3),
    guest_port=st.integers(1, 2),
    host_ip=st.sampled_from([None, "127.0.0.1", "192.0.2.2"]),
    protocol=st.sampled_from(["tcp", "udp"]),
)


@given(_PUBLISH, _PUBLISH)
def test_a_conflict_is_mutual(one: Publish, other: Publish) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)


def test_an_address_of_another_host_is_refused(store: SqliteStore) -> None:
    ports = Ports(store, engines({}))
    with pytest.raises(Invalid) as caught:
        ports.check("web", parsed("192.0.2.7:8080:80"), native=False)
    assert caught.value.code == "address_not_here"
    ports.check("web", parsed("127.0.0.5:8080:80"), native=False)
