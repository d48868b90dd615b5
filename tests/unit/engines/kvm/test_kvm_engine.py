"""What the KVM engine keeps of its host."""

from __future__ import annotations

from pathlib import Path

import pytest

from triune.engines.kvm.engine import KvmEngine
from triune.host import kvm
from triune.host.kvm import KvmProof


def test_a_device_that_comes_while_the_daemon_runs_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = [
        KvmProof(usable=False, code="no_device", reason="there is none"),
        KvmProof(usable=True, code="ok", reason="it ran", cpu="qemu64"),
        KvmProof(usable=False, code="no_device", reason="what was proved lasts"),
    ]
    monkeypatch.setattr(kvm, "prove", lambda **_: verdicts.pop(0))
    engine = KvmEngine(tmp_path)
    assert engine.host().accelerated is False
    facts = engine.host()
    assert (facts.accelerated, facts.cpu_model) == (True, "qemu64")
    assert engine.host() == facts
