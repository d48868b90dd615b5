"""Facts of system containers from their configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from triune.domain import capabilities
from triune.domain.isolation import Isolation
from triune.engines.lxc import seed, spec
from triune.engines.lxc.auditing import _in_user_data, facts

UNPRIVILEGED = {"lxc.idmap": ["u 0 1000000 65536", "g 0 1000000 65536"]}


def told(text: str = "", values: dict[str, list[str]] | None = None, *, shared: bool = False) -> Isolation:
    own = list(spec.parse(text))

    def items(key: str) -> Sequence[str]:
        return (values or {}).get(key, [value for name, value in own if name == key])

    return facts(own, items, None, None, folder=Path("/var/lib/lxc/box"), shared=shared)


def test_unprivileged_and_privileged() -> None:
    found = told(values=UNPRIVILEGED)
    assert (found.privileged, found.user_namespace, found.proc_guarded) == (False, True, True)
    assert [(line.outside, line.count) for line in found.id_map] == [(1000000, 65536)]
    found = told("lxc.cap.drop = sys_module mac_admin\nlxc.mount.auto = proc:rw sys:ro\n")
    assert (found.privileged, found.user_namespace, found.proc_guarded) == (True, False, False)
    assert found.capabilities == capabilities.ALL - {"sys_module", "mac_admin"}
    assert told("lxc.cap.keep = chown\n").capabilities == {"chown"}
    assert told("lxc.mount.auto = cgroup:mixed proc:mixed\n").proc_guarded is True


def test_filters(tmp_path: Path) -> None:
    assert (told().filtered, told().calls_blocked) == (False, frozenset())
    profile = tmp_path / "filter"
    profile.write_text("2\ndenylist\n[all]\nbpf errno 1\n")
    found = told(f"lxc.seccomp.profile = {profile}\n")
    assert (found.filtered, found.calls_blocked) == (True, {"bpf"})
    found = told("lxc.seccomp.profile = /no/such/file\n")
    assert (found.filtered, found.calls_blocked) == (True, None)
    assert "calls_blocked" in found.unknown


def test_what_of_the_host_it_has() -> None:
    found = told(
        "lxc.mount.entry = /srv/a\\040b srv none bind,ro,create=dir 0 0\n"
        "lxc.mount.entry = /var/lib/lxc/box/x x none bind 0 0\n"
        "lxc.mount.entry = tmpfs tmp tmpfs defaults 0 0\n"
        "lxc.cgroup2.devices.allow = b 8:0 rwm\n"
        "lxc.namespace.keep = net ipc\n"
        "lxc.net.0.type = none\n"
        "lxc.environment = API_TOKEN=abc\n"
        "lxc.include = /usr/share/lxc/config/nesting.conf\n"
    )
    assert [(mount.source, mount.target, mount.read_only) for mount in found.mounts] == [("/srv/a b", "/srv", True)]
    assert found.devices == ("cgroup rule b 8:0 rwm",)
    assert found.shared_namespaces == ("net", "ipc")
    assert (found.secrets, found.nesting) == (("API_TOKEN",), True)


def test_strict_confinement_is_what_its_configuration_says() -> None:
    text = "\n".join(f"{key} = {value}" for key, value in spec._strictness(_strict(), Path(spec.__file__).parent))
    found = told(text, None)
    assert found.no_new_privileges is True
    assert found.calls_blocked is not None
    assert "keyctl" in found.calls_blocked
    assert found.capabilities is not None
    assert not found.capabilities & {"sys_rawio", "sys_time", "sys_module", "mknod", "syslog"}


def _strict() -> spec.Settings:
    from triune.engines.lxc.settings import parse

    return parse({"confinement": "strict"})


def test_secrets_in_a_seed_that_the_guest_may_have_replaced(tmp_path: Path) -> None:
    place = tmp_path / seed.CLOUD_SEED
    place.mkdir(parents=True)
    (place / "user-data").write_text("#cloud-config\npassword: hunter2\n")
    assert _in_user_data(tmp_path) == ("user data: password",)
    (place / "user-data").unlink()
    outside = tmp_path.parent / "outside"
    outside.write_text("password: hunter2\n")
    (place / "user-data").symlink_to(outside)
    assert _in_user_data(tmp_path) == ()
    assert _in_user_data(tmp_path / "none") == ()
