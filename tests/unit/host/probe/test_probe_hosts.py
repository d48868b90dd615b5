"""What the probes say of canned hosts."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.trees import DEBIAN_12, INFO, NESTED_VM, SHAPING, TOOLS, UBUNTU_24, CannedTools, view

from triune.domain.finding import Finding, FindingStatus
from triune.host import tc
from triune.host.probe import examine as examining
from triune.host.probe import shaping
from triune.host.probe.examine import PROBES, examine
from triune.host.probe.view import View, ok
from triune.host.run import Result

CONFIG, MODULES = "boot/config-6.1.0-37-amd64", "lib/modules/6.1.0-37-amd64/modules.dep"
OK, WARNING, MISSING = FindingStatus.OK, FindingStatus.WARNING, FindingStatus.MISSING


def look(root: Path, tree: Mapping[str, str], **options: object) -> dict[str, Finding]:
    findings = examine(view(root, tree, **options))
    assert len({finding.id for finding in findings}) == len(findings), "ids are unique"
    return {finding.id: finding for finding in findings}


def test_debian_12_with_everything(tmp_path: Path) -> None:
    found = look(tmp_path, DEBIAN_12)
    expected_ok = {
        "cpu.virtualization", "kvm.nested", "iommu.passthrough", "cgroups.version", "cgroups.limits",
        "namespaces.kinds",
        "namespaces.user", "namespaces.subids", "security.seccomp", "security.apparmor", "storage.data",
        "storage.overlay", "network.forwarding", "network.neighbours", "network.shaping", "programs.libvirt",
        "programs.lxc", "programs.docker", "programs.docker-daemon", "programs.live-restore",
        "programs.qemu", "programs.restic", "programs.sshfs",
        "programs.libvirt-daemon", "resources.memory", "resources.limits",
    }  # fmt: skip
    assert {name for name in expected_ok if found[name].status is not OK} == set()
    assert found["cpu.virtualization"].sentence == "8 × Intel(R) Xeon(R) E-2288G with Intel VT-x."
    assert found["cgroups.version"].facts["version"] == 2
    assert found["storage.data"].facts["filesystem"] == "btrfs", "the deepest, last mount counts"
    assert found["programs.qemu"].facts["version"] == "7.2.17"
    assert found["engines.docker"].facts["usable"] is True


def test_this_kind_of_vm(tmp_path: Path) -> None:
    found = look(tmp_path, NESTED_VM, tools=CannedTools(TOOLS, {"/info": {"LiveRestoreEnabled": False}}))
    assert found["cpu.virtualization"].status is WARNING
    assert found["cgroups.version"].facts == {
        "version": 1,
        "hybrid": True,
        "controllers": ["blkio", "cpu", "cpuset", "freezer", "memory", "pids"],
    }
    assert found["cgroups.limits"].facts["lacking"] == ["disk weight"], "BFQ's own file is not what runtimes ask for"
    assert found["security.apparmor"].status is MISSING
    assert found["network.forwarding"].status is WARNING
    assert found["network.forward"].facts == {"policy": "DROP", "docker": True}
    assert found["network.neighbours"].status is WARNING
    assert found["programs.live-restore"].fix == "triune setup --live-restore"
    assert found["namespaces.subids"].status is MISSING
    assert found["resources.memory"].status is WARNING
    assert found["resources.inotify"].facts == {"value": 128, "wanted": 1024}
    assert found["engines.lxc"].status is MISSING
    assert "range of 65536 ids" in found["engines.lxc"].sentence


def test_ubuntu_without_engines(tmp_path: Path) -> None:
    found = look(tmp_path, UBUNTU_24, tools=CannedTools({}))
    assert found["namespaces.user"].status is OK
    assert "AppArmor" in found["namespaces.user"].sentence
    assert found["namespaces.subids"].fix == "triune setup", "a user's range is not root's"
    for engine in ("kvm", "lxc", "docker"):
        assert found[f"engines.{engine}"].status is MISSING
        assert found[f"engines.{engine}"].facts == {"engine": engine, "usable": False}
    assert found["engines.kvm"].sentence == "KVM virtual machines cannot run: QEMU is not installed."
    assert found["programs.qemu"].fix == "apt-get install -y --no-install-recommends qemu-system-x86"
    assert found["kvm.nested"].status is OK, "the module that has it on counts"


def test_an_empty_root_is_told_not_raised(tmp_path: Path) -> None:
    found = look(tmp_path, {}, tools=CannedTools({}))
    assert found["cgroups.version"].status is MISSING
    assert found["namespaces.kinds"].status is MISSING
    assert not [name for name in found if name.endswith(".unknown")], "no probe failed"


@pytest.mark.parametrize("tree", [DEBIAN_12, NESTED_VM, UBUNTU_24, {}], ids=["debian", "vm", "ubuntu", "empty"])
@pytest.mark.parametrize("euid", [0, 1000])
def test_every_finding_is_one_sentence_and_at_most_one_command(
    tmp_path: Path, tree: Mapping[str, str], euid: int
) -> None:
    for finding in look(tmp_path, tree, euid=euid).values():
        assert finding.sentence.endswith("."), finding
        assert (
            finding.sentence[0].isupper()
            or finding.sentence[0] in "/0123456789"
            or finding.area == "programs"
            or (finding.sentence.startswith(("btrfs", "cgroup")))
        ), finding
        assert "\n" not in finding.sentence + (finding.fix or "")
        assert finding.as_dict()["status"] in ("ok", "warning", "missing")
        assert finding.status is not OK or finding.fix is None, "what is well needs no mending"


def test_as_another_user_it_says_what_it_could_not_see(tmp_path: Path) -> None:
    found = look(tmp_path, DEBIAN_12, euid=1000)
    for name in ("kvm.device", "network.forward", "programs.libvirt-daemon", "storage.idmap"):
        assert found[name].status is WARNING
        assert found[name].facts["known"] is False
        assert found[name].fix == "sudo triune doctor"
    assert found["engines.kvm"].facts["usable"] is None


def test_no_device_though_the_processor_could(tmp_path: Path) -> None:
    tree = {name: text for name, text in DEBIAN_12.items() if name != "dev/kvm"}
    found = look(tmp_path, tree)["kvm.device"]
    assert (found.status, found.fix) == (MISSING, "modprobe kvm_intel")


def test_user_namespaces_switched_off(tmp_path: Path) -> None:
    found = look(tmp_path, {**DEBIAN_12, "proc/sys/user/max_user_namespaces": "0\n"})
    assert found["namespaces.user"].status is MISSING
    assert found["engines.lxc"].facts["usable"] is False


def test_firewalld_without_a_zone_for_the_bridge(tmp_path: Path) -> None:
    tools = CannedTools({**TOOLS, "firewall-cmd --state": "running\n"}, INFO)
    found = look(tmp_path, DEBIAN_12, tools=tools)["network.firewalld"]
    assert found.status is WARNING
    assert found.fix and "--add-interface=triune0" in found.fix


def test_memory_controller_off(tmp_path: Path) -> None:
    tree = {name: text for name, text in DEBIAN_12.items() if not name.endswith("memory.max")}
    tree["sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu io pids\n"
    found = look(tmp_path, tree)["cgroups.limits"]
    assert (found.status, found.facts["lacking"]) == (MISSING, ["memory", "swap"])
    assert found.fix and "cgroup_enable=memory" in found.fix


def test_swap_is_not_counted(tmp_path: Path) -> None:
    grub = {"etc/default/grub": 'GRUB_CMDLINE_LINUX=""\n'}
    tree = {name: text for name, text in (NESTED_VM | grub).items() if "memsw" not in name}
    found = look(tmp_path, tree)["cgroups.limits"]
    assert (found.status, found.facts["lacking"]) == (WARNING, ["swap", "disk weight"])
    assert found.fix and "swapaccount=1" in found.fix


@pytest.mark.parametrize(
    ("program", "without"), [("restic", "backups cannot work"), ("sshfs", "`triune mount` cannot work")]
)
def test_a_program_that_a_part_of_it_needs(tmp_path: Path, program: str, without: str) -> None:
    tools = CannedTools({line: said for line, said in TOOLS.items() if not line.startswith(program)}, INFO)
    found = look(tmp_path, DEBIAN_12, tools=tools)[f"programs.{program}"]
    assert found.status is MISSING
    assert found.sentence == f"{program} is not installed: {without}."
    assert found.fix == f"apt-get install -y --no-install-recommends {program}"
    assert not found.facts.get("optional")


@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
def test_keys_of_tpms_that_root_made(tmp_path: Path) -> None:
    keys = tmp_path / "var/lib/swtpm-localca"
    keys.mkdir(parents=True)
    os.chown(keys, 105, -1)
    assert look(tmp_path, DEBIAN_12)["programs.tpm-keys"].status is OK
    (keys / "signkey.pem").touch()
    found = look(tmp_path, DEBIAN_12)["programs.tpm-keys"]
    assert (found.status, found.facts["strange"]) == (WARNING, ["signkey.pem"])
    assert found.fix and found.fix.startswith("chown -R ")
    os.chown(keys / "signkey.pem", 105, -1)
    assert look(tmp_path, DEBIAN_12)["programs.tpm-keys"].status is OK


def test_a_program_that_is_slow_is_not_called_missing(tmp_path: Path) -> None:
    class Slow(CannedTools):
        def run(self, *argv: str, timeout: float = 2.0) -> Result | None:
            return None if argv[0] == "dockerd" else super().run(*argv, timeout=timeout)

    found = look(tmp_path, DEBIAN_12, tools=Slow(TOOLS, INFO))["programs.docker"]
    assert found.sentence == "Docker is installed but did not answer in time."
    assert found.facts["known"] is False


def test_their_versions_are_their_own(tmp_path: Path) -> None:
    found = look(tmp_path, DEBIAN_12)
    assert found["programs.sshfs"].facts["version"] == "3.7.3", "fusermount's and libfuse's stand beside it"
    assert found["programs.restic"].facts["version"] == "0.14.0"


class TestShaping:
    def test_a_kernel_built_without(self, tmp_path: Path) -> None:
        lines = [line for line in SHAPING.splitlines() if "TBF" not in line and "IFB" not in line]
        tree = {**DEBIAN_12, CONFIG: "\n".join([*lines, "# CONFIG_IFB is not set"])}
        found = look(tmp_path, tree)["network.shaping"]
        assert (found.status, found.facts) == (MISSING, {"lacking": ["sch_tbf", "ifb"]})
        assert found.sentence == "This kernel was built without sch_tbf, ifb: network limits cannot be set."
        assert found.fix == "apt-get install -y linux-image-amd64 && reboot"

    @pytest.mark.parametrize(
        ("tree", "fix"),
        [
            (DEBIAN_12, "apt-get install --reinstall -y linux-image-6.1.0-37-amd64"),
            (UBUNTU_24, "apt-get install -y linux-modules-extra-6.1.0-37-amd64"),
        ],
        ids=["debian", "ubuntu"],
    )
    def test_modules_that_are_not_installed(self, tmp_path: Path, tree: Mapping[str, str], fix: str) -> None:
        few = "kernel/net/sched/sch_tbf.ko.zst:\nkernel/net/sched/cls_u32.ko:\nkernel/drivers/net/ifb.ko:\n"
        loaded = {"sys/module/act_mirred/refcnt": "1\n"}
        found = look(tmp_path, {**tree, MODULES: few, **loaded})["network.shaping"]
        assert (found.status, found.facts, found.fix) == (MISSING, {"lacking": ["sch_ingress"]}, fix)

    def test_built_in_needs_no_module(self, tmp_path: Path) -> None:
        tree = {**DEBIAN_12, CONFIG: SHAPING.replace("=m", "=y"), MODULES: ""}
        assert look(tmp_path, tree)["network.shaping"].status is OK

    def test_no_configuration_to_read(self, tmp_path: Path) -> None:
        found = look(tmp_path, NESTED_VM)["network.shaping"]
        assert (found.status, found.facts["known"]) == (WARNING, False)

    def test_it_is_tried_where_nothing_tells(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        there = replace(view(tmp_path, NESTED_VM), live=True)
        assert shaping.probe(replace(there, euid=1000))[0].fix == "sudo triune doctor"
        monkeypatch.setattr(tc, "why_not", lambda: "")
        assert shaping.probe(there)[0].status is OK
        monkeypatch.setattr(tc, "why_not", lambda: "the kernel lacks it (Unknown qdisc)")
        refused = shaping.probe(there)[0]
        assert refused.status is MISSING
        assert refused.sentence == "Network limits cannot be set: the kernel lacks it (Unknown qdisc)."

    def test_no_tc(self, tmp_path: Path) -> None:
        found = look(tmp_path, DEBIAN_12, tools=CannedTools({}))["network.shaping"]
        assert (found.status, found.fix) == (MISSING, "apt-get install -y --no-install-recommends iproute2")


def test_a_broken_or_slow_probe_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "_SECONDS", PATIENCE)
    monkeypatch.setattr(examining, "_KVM_SECONDS", 0.2)
    over = threading.Event()

    def broken(_: View) -> Sequence[Finding]:
        raise RuntimeError("tripped")

    def slow(_: View) -> Sequence[Finding]:
        over.wait(PATIENCE)
        return []

    def fine(_: View) -> Sequence[Finding]:
        return [ok("fine.thing", "cpu", "Fine.")]

    probes = {"broken": ("cpu", broken), "kvm": ("cpu", slow), "fine": ("cpu", fine)}
    found = {finding.id: finding for finding in examine(view(tmp_path, DEBIAN_12), probes)}
    over.set()
    assert "tripped" in found["broken.unknown"].sentence
    assert "did not finish" in found["kvm.unknown"].sentence
    assert found["fine.thing"].status is OK


def test_every_area_has_a_title_in_the_table() -> None:
    from triune.cli.findings import AREAS

    assert {area for area, _ in PROBES.values()} <= set(AREAS)


def test_an_lxcfs_that_shows_no_cpu_limits_is_told(tmp_path: Path) -> None:
    mounted = {"proc/self/mountinfo": "96 27 0:50 / /var/lib/lxcfs rw - fuse.lxcfs lxcfs rw\n", "run/lxcfs.pid": "77"}
    tree = {**DEBIAN_12, **mounted, "proc/77/cmdline": "lxcfs\0/var/lib/lxcfs\0"}
    old = look(tmp_path / "a", tree)["namespaces.lxcfs"]
    assert old.status is WARNING
    assert "(process 77) was started without --enable-cfs" in old.sentence
    new = {**DEBIAN_12, **mounted, "proc/77/cmdline": "lxcfs\0--enable-cfs\0/var/lib/lxcfs\0"}
    assert look(tmp_path / "b", new)["namespaces.lxcfs"].status is OK
