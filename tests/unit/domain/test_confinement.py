"""Capabilities, seccomp filters and secrets as they are written, and as they are meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain import capabilities, seccomp, secrets


def test_capabilities_by_any_name() -> None:
    assert capabilities.plain(["CAP_SYS_ADMIN", " net_raw ", "Chown"]) == {"sys_admin", "net_raw", "chown"}
    assert capabilities.plain(["ALL"]) == capabilities.ALL
    assert capabilities.of_mask(0b100001) == {"chown", "kill"}
    assert capabilities.of_mask(1 << 42, 42) == {"capability 42"}


def test_the_reference_gives_calls_back_to_capabilities() -> None:
    assert "mount" in seccomp.reference_blocked(frozenset())
    assert "mount" not in seccomp.reference_blocked({"sys_admin"})
    assert "keyctl" in seccomp.reference_blocked(capabilities.ALL)
    assert set(seccomp.REFERENCE.values()) <= capabilities.ALL | {""}


def test_a_filter_in_dockers_form() -> None:
    allowing = {"names": ["mount", "bpf"], "action": "SCMP_ACT_ALLOW"}
    conditional = {"names": ["keyctl"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}
    strict = seccomp.blocked({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allowing, conditional]})
    assert strict == set(seccomp.REFERENCE) - {"mount", "bpf"}
    loose = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "bpf", "action": "SCMP_ACT_ERRNO"}]}
    assert seccomp.blocked(loose) == {"bpf"}
    for wrong in ({}, {"defaultAction": 1, "syscalls": []}, {"defaultAction": "SCMP_ACT_ALLOW"}):
        with pytest.raises(ValueError, match="defaultAction"):
            seccomp.blocked(wrong)


def test_a_filter_in_lxcs_form() -> None:
    deny = "2\ndenylist\nreject_force_umount # no\n[all]\nmount errno 1\nbpf errno 1\nkeyctl allow\n"
    assert seccomp.blocked_by_list(deny) == {"mount", "bpf"}
    allow = "2\nallowlist\nmount\nbpf allow\nkeyctl errno 1\n"
    assert seccomp.blocked_by_list(allow) == set(seccomp.REFERENCE) - {"mount", "bpf"}
    for wrong in ("", "3\ndenylist\n", "2\nsomething\n"):
        with pytest.raises(ValueError, match="no "):
            seccomp.blocked_by_list(wrong)


@given(st.text(max_size=300))
def test_filters_may_hold_anything(text: str) -> None:
    try:
        assert seccomp.blocked_by_list("2\ndenylist\n" + text) <= set(seccomp.REFERENCE)
        assert seccomp.blocked({"defaultAction": text, "syscalls": [{"names": [text], "action": text}, text]}) <= set(
            seccomp.REFERENCE
        )
    except ValueError:
        pass


def test_our_strict_filter_is_stricter_than_lxcs() -> None:
    from triune.engines.lxc import spec

    text = Path(spec.__file__).with_name(spec.STRICT).read_text()
    blocked = seccomp.blocked_by_list(text)
    assert {"keyctl", "bpf", "perf_event_open", "userfaultfd", "init_module", "open_by_handle_at"} <= blocked
    assert not blocked & {"mount", "umount2", "unshare", "setns", "reboot", "pivot_root"}, "systemd needs these"


def test_secrets_are_told_by_name() -> None:
    found = secrets.in_variables(
        {
            "DB_PASSWORD": "hunter2",
            "API_TOKEN_FILE": "/run/x",
            "PATH": "/bin",
            "PASSWORD": "",
            "KEY": "-----BEGIN RSA PRIVATE KEY-----",
            "GITHUB_TOKEN": "ghp_x",
            "TOKEN": "${ELSEWHERE}",
            "COMPASS_DIRECTION": "north",
        }
    )
    assert list(found) == ["DB_PASSWORD", "KEY", "GITHUB_TOKEN"]


def test_secrets_of_user_data() -> None:
    text = """#cloud-config
password: plain-text
chpasswd: {expire: false}
users:
  - name: a
    passwd: $6$rounds=4096$salt$hash
    lock_passwd: false
write_files:
  - content: |
      api_key = "abcdef"
      -----BEGIN OPENSSH PRIVATE KEY-----
"""
    assert list(secrets.in_text(text)) == ["password", "api_key", "openssh private key"]


@given(st.text(max_size=400))
def test_no_value_is_told(text: str) -> None:
    told = "\n".join(secrets.in_text(f"password: S3cr3tS3cr3t{json.dumps(text)}"))
    assert "S3cr3tS3cr3t" not in told
