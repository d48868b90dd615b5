"""The promises of the `limiting` facet, asked of every engine. What a load meets is for the live tests."""

from __future__ import annotations

import os

import pytest

from tests.contract.adapters import Adapter
from triune.domain.errors import Conflict, NotFound, TriuneError, Unsupported
from triune.domain.limits import FIELDS, NETWORK, Limits, Value
from triune.domain.operation import Silent
from triune.engines.base import Engine, Limiting

MIB = 2**20
# What each key is set to; two CPUs are all that a small host has.
VALUES: dict[str, Value] = {
    "cpus": 0.5, "cpu.weight": 50, "cpu.pin": "0", "memory": 384 * MIB, "swap": 0, "pids": 700,
    "io.read": 30 * MIB, "io.write": 20 * MIB, "iops.read": 900, "iops.write": 800,
}  # fmt: skip


@pytest.fixture
def limiting(engine: Engine) -> Limiting:
    if engine.limiting is None:
        pytest.skip(f"{engine.name} has no limiting facet: {engine.probe().missing.get('limiting')}")
    return engine.limiting


def values(limiting: Limiting) -> dict[str, Value | None]:
    """For the keys it has; pinning is no limit on a host with one CPU."""
    single = (os.cpu_count() or 1) == 1
    return {key: VALUES[key] for key in sorted(limiting.keys) if not (single and key == "cpu.pin")}


class TestLimiting:
    def test_every_key_is_there_or_says_why_not(self, engine: Engine, limiting: Limiting) -> None:
        missing = engine.probe().missing
        assert limiting.live | limiting.volatile <= limiting.keys <= set(FIELDS) - NETWORK
        for key in set(FIELDS) - NETWORK - limiting.keys:
            assert len(missing[f"limiting.{key}"]) > 15, key

    def test_a_stopped_one_keeps_them_and_loses_what_is_lifted(
        self, adapter: Adapter, engine: Engine, limiting: Limiting, created: str
    ) -> None:
        before = limiting.read(created)
        held = {key: value for key, value in values(limiting).items() if key not in limiting.volatile}
        limiting.apply(created, before.changed(held), frozenset(held))
        found = limiting.read(created).by_key()
        assert {key: found[key] for key in held} == held
        limiting.apply(created, before, frozenset(held))
        assert limiting.read(created) == before

    def test_a_launch_gives_them(self, adapter: Adapter, engine: Engine, limiting: Limiting, name: str) -> None:
        held = values(limiting)
        given = Limits().changed({key: held[key] for key in held if key not in ("cpus", "memory")})
        engine.create(adapter.plan(engine, name, cpus=0.5, memory=384 * MIB, limits=given), Silent())
        found = limiting.read(name).by_key()
        for key in held.keys() - limiting.volatile:
            assert found[key] == held[key], key

    def test_live_keys_change_while_it_runs(self, engine: Engine, limiting: Limiting, running: str) -> None:
        before = limiting.read(running)
        live = {key: value for key, value in values(limiting).items() if key in limiting.live}
        try:
            assert not limiting.apply(running, before.changed(live), frozenset(live))
            found = limiting.read(running).by_key()
            assert {key: found[key] for key in live} == live
            only = before.changed({**live, "io.read": 10 * MIB})
            if "io.read" in live:
                limiting.apply(running, only, frozenset({"io.read"}))
                assert limiting.read(running).by_key() == {**found, "io.read": 10 * MIB}
        finally:
            limiting.apply(running, before, frozenset(live))
        assert limiting.read(running) == before

    def test_less_than_it_uses_is_refused_and_nothing_changes(self, limiting: Limiting, running: str) -> None:
        if "memory" not in limiting.live:
            pytest.skip("by design: memory is not changed live")
        before = limiting.read(running)
        with pytest.raises((Conflict, TriuneError)) as caught:
            limiting.apply(running, before.changed({"memory": 64 * 1024, "cpus": 0.4}), frozenset({"memory", "cpus"}))
        assert caught.value.hint
        assert limiting.read(running) == before

    def test_what_it_lacks_is_refused(self, limiting: Limiting, created: str) -> None:
        before = limiting.read(created)
        for key in sorted(set(FIELDS) - NETWORK - limiting.keys):
            with pytest.raises(Unsupported):
                limiting.apply(created, before.changed({key: VALUES[key]}), frozenset({key}))
        assert limiting.read(created) == before

    def test_one_that_is_not_there_is_not_found(self, limiting: Limiting) -> None:
        with pytest.raises(NotFound) as caught:
            limiting.read("tdoc-none")
        assert caught.value.code == "instance_not_found"
        with pytest.raises(NotFound):
            limiting.apply("tdoc-none", Limits(cpus=1.0), frozenset({"cpus"}))
