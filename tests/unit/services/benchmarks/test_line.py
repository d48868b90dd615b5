"""The line to a network outside: addresses that nothing on the host has, and nothing left of it."""

from __future__ import annotations

import ipaddress

import pytest

from triune.domain.errors import Failed
from triune.host import net
from triune.services.benchmarks.line import Line, name


def on_host(monkeypatch: pytest.MonkeyPatch, *routes: str) -> None:
    monkeypatch.setattr(net, "addresses", dict)
    monkeypatch.setattr(net, "routes", lambda: [(ipaddress.IPv4Network(text), "eth9") for text in routes])


def test_each_run_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    on_host(monkeypatch)
    assert Line("000000").host == "198.18.0.1"
    assert Line("000002").host == "198.18.0.9"
    assert Line("ffffff").host == "198.19.255.253"
    assert len(name("ffffff")) <= 15


def test_what_the_host_uses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    on_host(monkeypatch, "198.18.0.0/16")
    assert Line("000001").host == "198.19.0.1"


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    on_host(monkeypatch, "198.18.0.0/15")
    with pytest.raises(Failed) as error:
        Line("000001")
    assert error.value.code == "no_addresses"
