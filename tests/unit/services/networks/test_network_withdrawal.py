"""Taking networks off a host: what is in use stays, and one failure keeps nothing else from going."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from triune.domain.errors import Failed, Unreachable
from triune.domain.instance import Instance, Origin, State
from triune.domain.network import Network
from triune.services.networks import withdrawal
from triune.services.networks.settings import NetworkSettings
from triune.services.networks.withdrawal import Withdrawal

NETWORK = Network(
    name="triune0", bridge="triune0", subnet="10.87.0.0/16", gateway="10.87.0.1", domain="triune.internal"
)


@dataclass
class Engine:
    """As much of one as is asked here."""

    rows: list[Instance] = field(default_factory=list)
    bridges: bool = False
    away: bool = False
    forgotten: list[str] = field(default_factory=list)

    def list(self) -> list[Instance]:
        if self.away:
            raise Unreachable("engine_unreachable", "it is away", hint="Wait.")
        return self.rows

    @property
    def bridging(self) -> Engine | None:
        return self if self.bridges else None

    def forget(self, network: Network) -> None:
        self.forgotten.append(network.name)


def instance(name: str, *addresses: str) -> Instance:
    return Instance(name=name, engine="x", state=State.RUNNING, origin=Origin.ADOPTED, addresses=addresses)


class Host:
    """What is done to it, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.ports: list[Any] = []
        self.broken = ""
        for module, name in (
            ("dnsmasq", "remove"), ("firewall", "shut_again"), ("net", "delete_link"),
            ("nft", "delete_table"), ("hosts_file", "write"),
        ):  # fmt: skip
            monkeypatch.setattr(getattr(withdrawal, module), name, self._noting(f"{module}.{name}"))
        monkeypatch.setattr(withdrawal.net, "ports", lambda _: self.ports)
        monkeypatch.setattr(withdrawal.tc, "read", lambda _: None)

    def _noting(self, word: str) -> Any:
        def act(*_: object) -> None:
            if word == self.broken:
                raise Failed("broken", f"{word} broke", hint="Mend it.")
            self.done.append(word)

        return act


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def made(tmp_path: Path, *members: str, **engines: Engine) -> Withdrawal:
    settings = NetworkSettings(folder=tmp_path / "net", hosts_file=tmp_path / "hosts")
    return Withdrawal([NETWORK], engines, settings, lambda _: members, lambda _: None)  # type: ignore[arg-type, return-value]


EVERYTHING = ["dnsmasq.remove", "firewall.shut_again", "net.delete_link", "nft.delete_table", "hosts_file.write"]


def test_nobody_is_in_it(tmp_path: Path, host: Host) -> None:
    engine = Engine(rows=[instance("far", "192.0.2.7")], bridges=True)
    assert made(tmp_path, e=engine).run() == []
    assert host.done == EVERYTHING
    assert engine.forgotten == ["triune0"]


def test_a_bridge_in_use_stays_and_so_does_its_engine_s_word_of_it(tmp_path: Path, host: Host) -> None:
    mine, other = Engine(rows=[instance("web", "10.87.0.9")], bridges=True), Engine(bridges=True)
    (said,) = made(tmp_path, mine=mine, other=other).run()
    assert said.startswith("the bridge triune0 stays until the host restarts, for web is in it")
    assert host.done == [word for word in EVERYTHING if word != "net.delete_link"]
    assert (mine.forgotten, other.forgotten) == ([], ["triune0"])


def test_stopped_ones_that_hold_an_address_are_in_it_too(tmp_path: Path, host: Host) -> None:
    engine = Engine(rows=[replace(instance("db"), state=State.STOPPED)], bridges=True)
    (said,) = made(tmp_path, "db", "web", e=engine).run()
    assert "for db, web are in it" in said
    assert engine.forgotten == []


def test_an_engine_that_is_away_keeps_what_it_knows(tmp_path: Path, host: Host) -> None:
    @dataclass
    class Port:
        name: str

    host.ports = [Port("vnet7")]
    engine = Engine(bridges=True, away=True)
    subject = made(tmp_path, e=engine)
    assert subject.users(NETWORK) == ["vnet7"], "its cards are seen"
    (said,) = subject.run()
    assert "for vnet7 is in it" in said
    assert engine.forgotten == []


def test_what_fails_is_told_at_the_end(tmp_path: Path, host: Host) -> None:
    host.broken = "firewall.shut_again"
    with pytest.raises(Failed, match=r"firewall\.shut_again broke") as error:
        made(tmp_path, e=Engine()).run()
    assert error.value.code == "network_left"
    assert host.done == [word for word in EVERYTHING if word != host.broken]
