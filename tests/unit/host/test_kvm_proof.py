"""The proof of /dev/kvm: the payload itself, and the verdicts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.host import kvm


@pytest.fixture(autouse=True)
def _no_host_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "_host_kernel", lambda: None)


needs_qemu = pytest.mark.skipif(shutil.which(kvm.QEMU) is None, reason="QEMU is not installed")


@needs_qemu
def test_the_payload_reaches_its_end_where_the_cpu_is_sound() -> None:
    assert kvm._guest("tcg", "max", 30)[0] == (0x31 << 1) | 1


@needs_qemu
def test_a_guest_that_hangs_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = {"kvm": (None, ""), "tcg": (99, "")}
    monkeypatch.setattr(kvm, "_guest", lambda accelerator, cpu, timeout: answers[accelerator])
    device = tmp_path / "kvm"
    device.touch()
    proof = kvm.prove(cache=tmp_path / "proof.json", device=device)
    assert (proof.usable, proof.code) == (False, "guest_hung")
    monkeypatch.setattr(kvm, "_guest", lambda *_: pytest.fail("the verdict of this boot is kept"))
    assert kvm.prove(cache=tmp_path / "proof.json", device=device) == proof


@needs_qemu
@pytest.mark.parametrize(
    ("under_kvm", "emulated", "code"),
    [((99, ""), (99, ""), "ok"), ((134, "MSR"), (99, ""), "guest_failed"), ((None, ""), (1, ""), "unproven")],
)
def test_verdicts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    under_kvm: tuple[int | None, str],
    emulated: tuple[int | None, str],
    code: str,
) -> None:
    answers = {"kvm": under_kvm, "tcg": emulated}
    monkeypatch.setattr(kvm, "_guest", lambda accelerator, cpu, timeout: answers[accelerator])
    device = tmp_path / "kvm"
    device.touch()
    proof = kvm.prove(cache=None, device=device)
    assert (proof.usable, proof.code) == (code == "ok", code)


def test_no_device(tmp_path: Path) -> None:
    proof = kvm.prove(cache=None, device=tmp_path / "kvm")
    assert (proof.usable, proof.code) == (False, "no_device")
    assert proof.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": "k", "proof": {"usable": true}}', "\xff"])
def test_a_broken_cache_is_no_answer(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "proof.json"
    cache.write_text(text)
    assert kvm._read(cache, "k") is None


def test_another_boot_is_another_proof(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "proof.json"
    proof = kvm.KvmProof(usable=True, code="ok", reason="it ran")
    kvm._write(cache, "one", proof)
    assert kvm._read(cache, "one") == proof
    assert kvm._read(cache, "two") is None
    assert json.loads(cache.read_text())["key"] == "one"


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
def test_a_device_that_qemus_user_may_not_open(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o600)
    assert kvm.libvirt_reprobes(device, user="nobody") is not None
    device.chmod(0o666)
    assert kvm.libvirt_reprobes(device, user="nobody") is None
    assert kvm.libvirt_reprobes(device, user="no-such-user") is None


def fake_qemu(folder: Path, monkeypatch: pytest.MonkeyPatch, cases: str) -> Path:
    """A QEMU that acts by its accelerator and CPU model; returns the file in which it notes the models tried."""
    program, tried = folder / "qemu", folder / "tried"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*) echo "QEMU emulator version 9.9"; exit 0 ;; esac\n'
        'while [ $# -gt 0 ]; do case "$1" in\n'
        '-machine) accel="$2" ;; -cpu) cpu="$2" ;; -initrd) cpu="$cpu stock" ;; esac; shift; done\n'
        f'echo "${{accel#*=}} $cpu" >> {tried}\n'
        f'case "${{accel#*=}} $cpu" in {cases} "tcg max") exit 99 ;; *) exit 1 ;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(kvm, "QEMU", str(program))
    return tried


MSR = '"kvm host") echo "qemu: error: failed to set MSR 0x10a to 0x69" >&2; exit 134 ;;'


def test_a_register_that_kvm_lacks_does_not_condemn_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_qemu(tmp_path, monkeypatch, f'{MSR} "kvm qemu64") exit 99 ;;')
    device = tmp_path / "kvm"
    device.touch()
    cache = tmp_path / "proof.json"
    proof = kvm.prove(cache=cache, device=device)
    assert (proof.usable, proof.code, proof.cpu) == (True, "ok", "qemu64")
    assert "qemu64" in proof.reason and "MSR 0x10a" in proof.reason
    assert tried.read_text().splitlines() == ["kvm host", "kvm qemu64"]
    assert kvm.prove(cache=cache, device=device) == proof
    assert len(tried.read_text().splitlines()) == 2


def test_a_plain_model_that_hangs_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_qemu(tmp_path, monkeypatch, f'{MSR} "kvm qemu64") exec sleep 60 ;;')
    device = tmp_path / "kvm"
    device.touch()
    guest = kvm._guest
    monkeypatch.setattr(kvm, "_guest", lambda *what: guest(*what[:2], 0.5 if what[1] == "qemu64" else PATIENCE))
    proof = kvm.prove(cache=None, device=device)
    assert (proof.usable, proof.code) == (False, "guest_hung")
    assert tried.read_text().splitlines() == ["kvm host", "kvm qemu64", "tcg max"]


def test_both_models_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(tmp_path, monkeypatch, MSR)
    device = tmp_path / "kvm"
    device.touch()
    proof = kvm.prove(cache=None, device=device)
    assert (proof.usable, proof.code) == (False, "guest_failed")
    assert "MSR 0x10a" in proof.reason


def test_what_proves_nothing_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch()
    cache = tmp_path / "proof.json"
    fake_qemu(tmp_path, monkeypatch, '"tcg max") exit 1 ;;')
    assert kvm.prove(cache=cache, device=device).code == "unproven"
    fake_qemu(tmp_path, monkeypatch, '"kvm host") exit 99 ;;')
    assert kvm.prove(cache=cache, device=device).code == "ok"


def test_a_stock_kernel_that_hangs_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A para-virtual hypervisor emulated every instruction of the payload, and stopped at a kernel's cmpxchg16b."""
    tried = fake_qemu(
        tmp_path, monkeypatch, '"kvm host"|"tcg max stock") exit 99 ;; "kvm host stock") exec sleep 60 ;;'
    )
    monkeypatch.setattr(kvm, "_KERNEL_PATIENCE", 0.5)
    device, cache, kernel = tmp_path / "kvm", tmp_path / "proof.json", tmp_path / "vmlinuz"
    device.touch()
    assert kvm.prove(cache=cache, device=device).usable
    proof = kvm.prove(kernel, cache=cache, device=device)
    assert (proof.usable, proof.code, proof.kernel) == (False, "kernel_failed", str(kernel))
    assert "hangs" in proof.reason
    assert tried.read_text().splitlines() == ["kvm host", "kvm host stock", "tcg max stock"]
    assert kvm.prove(kernel, cache=cache, device=device) == proof
    assert kvm.prove(cache=cache, device=device) == proof
    assert len(tried.read_text().splitlines()) == 3


def test_a_stock_kernel_that_comes_up_is_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_qemu(tmp_path, monkeypatch, '"kvm host"|"kvm host stock") exit 99 ;;')
    device, cache = tmp_path / "kvm", tmp_path / "proof.json"
    device.touch()
    proof = kvm.prove(tmp_path / "one", cache=cache, device=device)
    assert (proof.usable, proof.kernel) == (True, str(tmp_path / "one"))
    assert kvm.prove(tmp_path / "two", cache=cache, device=device) == proof
    assert tried.read_text().splitlines() == ["kvm host", "kvm host stock"]


def test_a_kernel_that_fails_everywhere_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_qemu(tmp_path, monkeypatch, '"kvm host") exit 99 ;;')
    device, cache, kernel = tmp_path / "kvm", tmp_path / "proof.json", tmp_path / "own"
    device.touch()
    proof = kvm.prove(kernel, cache=cache, device=device)
    assert (proof.usable, proof.kernel, proof.unfit) == (True, "", (str(kernel),))
    assert kvm.prove(kernel, cache=cache, device=device) == proof
    assert tried.read_text().splitlines() == ["kvm host", "kvm host stock", "tcg max stock"]
