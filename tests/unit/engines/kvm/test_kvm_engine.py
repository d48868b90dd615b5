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
    monkeypatch.setattr(kvm, "prove", lambda *_, **__: verdicts.pop(0))
    engine = KvmEngine(tmp_path)
    assert engine.host().accelerated is False
    facts = engine.host()
    assert (facts.accelerated, facts.cpu_model) == (True, "qemu64")
    assert engine.host() == facts


def test_the_first_stock_kernel_is_tried_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path | None] = []

    def prove(kernel: Path | None = None, **_: object) -> KvmProof:
        asked.append(kernel)
        return KvmProof(usable=kernel is None, code="ok" if kernel is None else "kernel_failed", reason="")

    monkeypatch.setattr(kvm, "prove", prove)
    engine = KvmEngine(tmp_path)
    assert engine.host().accelerated is True
    assert engine.host(Path("/vmlinux")).accelerated is False
    assert engine.host(Path("/vmlinux")).accelerated is False
    assert engine.host().accelerated is False
    assert asked == [None, Path("/vmlinux")]
