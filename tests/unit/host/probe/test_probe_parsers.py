"""Parsers of what the kernel and programs say: right on real text, and never raising on anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.host.probe.cgroups import parse_proc_cgroups
from triune.host.probe.cpu import parse_cpuinfo
from triune.host.probe.filesystems import Mount, mount_of, parse_mountinfo
from triune.host.probe.kernel import parse_kernel_config
from triune.host.probe.network import forward_policy
from triune.host.probe.resources import parse_meminfo
from triune.host.probe.versions import parse_version

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=12)


@given(st.text())
def test_no_parser_raises(text: str) -> None:
    parse_cpuinfo(text)
    parse_proc_cgroups(text)
    parse_kernel_config(text)
    parse_mountinfo(text)
    parse_meminfo(text)
    parse_version(text)
    forward_policy(text)


@given(count=st.integers(1, 64), model=WORD, flags=st.lists(WORD, max_size=30, unique=True))
def test_cpuinfo(count: int, model: str, flags: list[str]) -> None:
    block = "processor\t: {}\nvendor_id\t: X\nmodel name\t: {}\nflags\t\t: {}\n\n"
    cpu = parse_cpuinfo("".join(block.format(number, model, " ".join(flags)) for number in range(count)))
    assert (cpu.count, cpu.model, cpu.flags) == (count, model, frozenset(flags))
    assert (cpu.virtualization is not None) == bool({"vmx", "svm"} & set(flags))


@given(st.dictionaries(WORD, st.booleans(), max_size=15))
def test_proc_cgroups(controllers: dict[str, bool]) -> None:
    lines = [f"{name}\t0\t1\t{int(enabled)}" for name, enabled in controllers.items()]
    text = "\n".join(["#subsys_name\thierarchy\tnum_cgroups\tenabled", *lines])
    assert parse_proc_cgroups(text) == {name for name, enabled in controllers.items() if enabled}


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=4), st.sampled_from(["v", "", "version ", "runc version "]))
def test_versions_round_trip(numbers: list[int], prefix: str) -> None:
    number = ".".join(map(str, numbers))
    if number != "0.0":
        assert parse_version(f"{prefix}{number}\n") == number


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.7)", "8.2.2"),
        ("libvirtd (libvirt) 10.0.0", "10.0.0"),
        ("Docker version 28.2.2, build e6534b4", "28.2.2"),
        ("containerd github.com/containerd/containerd 1.7.24 ", "1.7.24"),
        ("containerd containerd.io v2.1.5 fcd43222d6b07379a4be9786bda52438f0dd16a1", "2.1.5"),
        ("runsc version release-20240729.0\nspec: 1.1.0-rc.1", "20240729.0"),
        ("runsc version 0.0~20221219.0\nspec: 1.0.2", "20221219.0"),
        ("kata-runtime  : 3.2.0\n   commit   : abc", "3.2.0"),
        ("crun version 1.14.1\ncommit: de537a7965bfbe9992e2cfae0baeb56a08128171", "1.14.1"),
        ("no version here", None),
    ],
)
def test_real_version_strings(said: str, version: str | None) -> None:
    assert parse_version(said) == version


def test_mountinfo_escapes_and_depth() -> None:
    mounts = parse_mountinfo(
        "22 1 8:1 / / rw shared:1 master:2 - ext4 /dev/sda1 rw\n"
        "23 22 8:2 / /var/lib rw - xfs /dev/sda2 rw\n"
        "24 22 8:3 / /with\\040blank rw - btrfs /dev/sda3 rw\n"
        "junk\n"
    )
    assert [mount.target for mount in mounts] == ["/", "/var/lib", "/with blank"]
    assert mount_of(mounts, "/var/lib/triune") == Mount("/var/lib", "xfs", "/dev/sda2")
    assert mount_of(mounts, "/var/library") == mounts[0], "a prefix of a name is not a folder"
    assert mount_of([], "/var") is None


def test_meminfo_units() -> None:
    assert parse_meminfo("MemTotal:  10 kB\nHugePages_Total:  3\nOdd: x\n") == {"MemTotal": 10240, "HugePages_Total": 3}


def test_kernel_config() -> None:
    text = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D="text"\n'
    assert parse_kernel_config(text) == {"CONFIG_A": "y", "CONFIG_C": "m", "CONFIG_D": '"text"'}


@pytest.mark.parametrize(("rules", "policy"), [("-P FORWARD DROP\n-A FORWARD -j X", "DROP"), ("", None)])
def test_forward_policy(rules: str, policy: str | None) -> None:
    assert forward_policy(rules) == policy
