"""Whether /dev/kvm can really run a 64-bit guest: proved by running one, once per boot.

Nested and para-virtual hypervisors exist whose /dev/kvm opens, reports its API version and runs 16-bit code, and
yet never gets through long mode. So a payload of 436 bytes (`longmode.S`, assembled into `longmode.bin`) enters long
mode with paging, takes timer interrupts and leaves through QEMU's isa-debug-exit device, under a hard time-out.
The same payload run by QEMU's emulator is the control: when that fails too, QEMU is to blame and nothing is proved.

That is not enough: a hypervisor that emulates instructions may know those of the payload and stop at one that a stock
kernel needs. So the verdict is "ok" only until a stock kernel has been tried: the host's own from /boot, or the first
image's that is launched. It gets a first process of 352 bytes (`stockinit.S`) that leaves through the same device.

QEMU refuses the host's own CPU model where KVM lacks one register of it ("failed to set MSR"); that says nothing about
KVM, so a plain model is tried before the verdict.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

from triune.domain.errors import Failed, TriuneError
from triune.host.run import Result, run

QEMU = "qemu-system-x86_64"
CACHE = Path("/run/triune/kvm-proof.json")
DEVICE = Path("/dev/kvm")
_PASSED = (0x31 << 1) | 1  # isa-debug-exit turns the value written into (value << 1) | 1
_PAYLOAD = "longmode.bin"
HOST_CPU = "host"
_PLAIN_CPU = "qemu64"
_INIT = "stockinit.bin"
_KERNEL_PATIENCE = 15.0  # seconds; a sound KVM takes one or two
_CONTROL_PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmProof:
    """The verdict. `usable`: a 64-bit guest ran. `reason`: one sentence. `hint`: what mends it, or empty.

    `code`: ok | no_device | no_access | no_qemu | wrong_machine | guest_hung | guest_failed | kernel_failed | unproven.
    `cpu`: QEMU's CPU model it ran with, "host" or a plain one. `kernel`: the stock kernel that came up or failed, ""
    while none could be tried; `unfit`: kernels that prove nothing, because they fail emulated too.
    """

    usable: bool
    code: str
    reason: str
    hint: str = ""
    seconds: float = 0.0
    cpu: str = HOST_CPU
    kernel: str = ""
    unfit: Sequence[str] = ()

    @property
    def lasting(self) -> bool:
        """Whether a guest was tried and gave an answer: only a boot or another QEMU changes that."""
        return self.code in ("ok", "guest_hung", "guest_failed", "kernel_failed")


def prove(
    kernel: Path | None = None, *, cache: Path | None = CACHE, timeout: float = 5.0, device: Path = DEVICE
) -> KvmProof:
    """Run the payload and a stock kernel under KVM, or return what an earlier run of this boot found. Never raises.

    `kernel` is one to try; without it the host's own is, where it can be read.
    A lasting verdict is kept in `cache`, keyed by kernel release, QEMU version, models tried and boot id; None keeps
    nothing. Others (no device, no QEMU, nothing proved) are not, so that mending what is wrong counts at once.
    """
    cheap = _without_running(device)
    if cheap is not None:
        return cheap
    try:
        key = _key()
    except (OSError, TriuneError) as error:
        return KvmProof(usable=False, code="no_qemu", reason=f"QEMU does not answer: {error}", hint="Run: triune setup")
    known = _read(cache, key)
    proof = known or _run_payload(timeout)
    if proof.usable and not proof.kernel:
        proof = _tried(proof, (kernel, _host_kernel()))
    if proof.lasting and proof != known:
        _write(cache, key, proof)
    return proof


def libvirt_reprobes(device: Path = DEVICE, user: str = "libvirt-qemu") -> str | None:
    """Say why libvirt would ask QEMU for its abilities again at every call, or None.

    libvirtd probes QEMU as root but checks the cached answer with the rights of QEMU's user: where that user may not
    open /dev/kvm (no udev has set its group), the cache never holds, and a start takes a minute instead of a second.
    """
    import grp
    import pwd

    try:
        account, status = pwd.getpwnam(user), device.stat()
    except (KeyError, OSError):
        return None
    groups = {account.pw_gid, *(group.gr_gid for group in grp.getgrall() if user in group.gr_mem)}
    mode = status.st_mode
    if status.st_uid == account.pw_uid:
        allowed = mode & 0o600 == 0o600
    elif status.st_gid in groups:
        allowed = mode & 0o060 == 0o060
    else:
        allowed = mode & 0o006 == 0o006
    if allowed:
        return None
    return f"{user} may not open {device}, so libvirt probes QEMU anew at every call and starts take a minute"


def _without_running(device: Path) -> KvmProof | None:
    if os.uname().machine != "x86_64":
        return KvmProof(usable=False, code="wrong_machine", reason="The proof is for x86-64 hosts; this is another")
    if not device.exists():
        return KvmProof(
            usable=False,
            code="no_device",
            reason=f"{device} does not exist: no virtualization in the CPU, switched off, or no module loaded",
            hint="Switch on VT-x or AMD-V in the firmware, then: modprobe kvm_intel || modprobe kvm_amd",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return KvmProof(
            usable=False, code="no_access", reason=f"{device} may not be opened", hint="Run as root or join group kvm"
        )
    if shutil.which(QEMU) is None:
        return KvmProof(usable=False, code="no_qemu", reason=f"{QEMU} is not installed", hint="Run: triune setup")
    return None


def _run_payload(timeout: float) -> KvmProof:
    import time

    began = time.monotonic()
    cpu = HOST_CPU
    try:
        status, said = _guest("kvm", cpu, timeout)
        if status not in (_PASSED, None):
            cpu = _PLAIN_CPU
            status, _ = _guest("kvm", cpu, timeout)
        control = 0 if status == _PASSED else _guest("tcg", "max", 20.0)[0]
    except (OSError, TriuneError) as error:
        return KvmProof(usable=False, code="unproven", reason=f"The proof could not be run: {error}")
    seconds = round(time.monotonic() - began, 3)
    if status == _PASSED:
        reason = "A 64-bit guest ran under KVM"
        if cpu != HOST_CPU:
            reason += f", with CPU model {cpu} only; with the host's own QEMU fails: {said or 'without a message'}"
        return KvmProof(usable=True, code="ok", reason=reason, seconds=seconds, cpu=cpu)
    hint = "Virtual machines run emulated here; use a host with real or nested KVM for speed"
    if control != _PASSED:
        reason = "The test guest fails even when emulated, so nothing is proved about KVM"
        return KvmProof(usable=False, code="unproven", reason=reason, hint=hint, seconds=seconds)
    if status is None:
        reason = f"/dev/kvm opens, but a 64-bit guest hangs under it (no answer within {timeout:g} s)"
        return KvmProof(usable=False, code="guest_hung", reason=reason, hint=hint, seconds=seconds)
    reason = f"/dev/kvm opens, but a 64-bit guest cannot run under it: {said or f'QEMU ended with status {status}'}"
    return KvmProof(usable=False, code="guest_failed", reason=reason, hint=hint, seconds=seconds)


def _host_kernel() -> Path | None:
    path = Path("/boot") / f"vmlinuz-{os.uname().release}"
    return path if os.access(path, os.R_OK) else None


def _tried(proof: KvmProof, kernels: Sequence[Path | None]) -> KvmProof:
    """The verdict after the first of these stock kernels that can prove something."""
    for kernel in kernels:
        if kernel is None or str(kernel) in proof.unfit:
            continue
        try:
            status, said = _stock_guest("kvm", proof.cpu, kernel, _KERNEL_PATIENCE)
            if status == _PASSED:
                return replace(proof, kernel=str(kernel))
            if _stock_guest("tcg", "max", kernel, _CONTROL_PATIENCE)[0] != _PASSED:
                proof = replace(proof, unfit=(*proof.unfit, str(kernel)))
                continue
        except (OSError, TriuneError):
            continue
        how = "hangs" if status is None else f"fails ({said or f'QEMU ended with status {status}'})"
        return replace(
            proof,
            usable=False,
            code="kernel_failed",
            reason=f"/dev/kvm opens and runs a tiny 64-bit guest, but a stock kernel {how} under it",
            hint="Virtual machines run emulated here; use a host with real or nested KVM for speed",
            kernel=str(kernel),
        )
    return proof


def _guest(accelerator: str, cpu: str, timeout: float) -> tuple[int | None, str]:
    """Run the payload; return QEMU's exit status (None: it hung and was killed) and its last line."""
    with resources.as_file(resources.files("triune.host") / _PAYLOAD) as payload:
        return _qemu(accelerator, cpu, ["-m", "16", "-kernel", str(payload)], timeout)


def _stock_guest(accelerator: str, cpu: str, kernel: Path, timeout: float) -> tuple[int | None, str]:
    """Boot a stock kernel to its first process; returns as `_guest` does."""
    init = (resources.files("triune.host") / _INIT).read_bytes()
    with tempfile.NamedTemporaryFile(prefix="triune-kvm-", suffix=".cpio") as initrd:
        initrd.write(initramfs(init))
        initrd.flush()
        given = ["-m", "256", "-kernel", str(kernel), "-initrd", initrd.name, "-append", "quiet panic=-1"]
        return _qemu(accelerator, cpu, given, timeout)


def initramfs(init: bytes) -> bytes:
    """A cpio archive (format newc, kernel's Documentation/driver-api/early-userspace/buffer-format.rst) with /init."""
    archive = b""
    for number, name, mode, data in ((1, b"init", 0o100755, init), (0, b"TRAILER!!!", 0, b"")):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        entry = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
        archive += entry + bytes(-len(entry) % 4) + data + bytes(-len(data) % 4)
    return archive


def _qemu(accelerator: str, cpu: str, given: Sequence[str], timeout: float) -> tuple[int | None, str]:
    argv = [
        QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", f"pc,accel={accelerator}", "-cpu", cpu, "-device", "isa-debug-exit,iobase=0xf4", *given,
    ]  # fmt: skip
    # A crash of QEMU must not drop a core file into the daemon's folder.
    with tempfile.TemporaryDirectory(prefix="triune-kvm-") as scratch:
        try:
            done: Result = run(argv, check=False, timeout=timeout, cwd=Path(scratch))
        except Failed as error:
            if error.code == "command_timeout":
                return None, ""
            raise
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    said = next((line for line in lines if "error" in line), lines[-1] if lines else "")
    return done.status, re.sub(r"[^\x20-\x7e]", "", said)[:200]


def _key() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    version = run([QEMU, "--version"], timeout=10).text.splitlines()[0]
    return f"{os.uname().release}|{version}|{HOST_CPU}, {_PLAIN_CPU}|{boot}"


def _read(cache: Path | None, key: str) -> KvmProof | None:
    if cache is None:
        return None
    try:
        data = json.loads(cache.read_text())
        if data["key"] != key:
            return None
        proof = KvmProof(**data["proof"])
        return replace(proof, unfit=tuple(proof.unfit))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(cache: Path | None, key: str, proof: KvmProof) -> None:
    if cache is None:
        return
    try:
        cache.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = cache.with_name(f".{cache.name}.{os.getpid()}")
        fresh.write_text(json.dumps({"key": key, "proof": asdict(proof)}))
        fresh.replace(cache)
    except OSError:
        return  # nothing is lost but the seconds of the next proof
