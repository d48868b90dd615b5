"""Configuration, settings, mark and the small parsers of the LXC engine."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Failed, Invalid, NotFound
from triune.domain.instance import State
from triune.domain.operation import Silent
from triune.engines.base import Command
from triune.engines.lxc import commands, detail, layers, logs, mark, seed, settings, spec, watch
from triune.engines.lxc.client import Client, start_errors
from triune.engines.lxc.engine import LxcEngine
from triune.engines.lxc.mark import Bind, Card, Mark
from triune.host.idmap import IdRange

CARD = Card(
    network="triune0",
    bridge="triune0",
    mac="02:00:00:00:00:01",
    address="10.87.0.5",
    prefix=24,
    gateway="10.87.0.1",
    domain="triune",
    host_interface="tl020000000001",
)
MARK = Mark(
    image="debian/12",
    created=datetime(2025, 1, 1, tzinfo=UTC),
    tree=Path("/images/tree"),
    lower=Path("/state/lower/x"),
    state_dir=Path("/state"),
    id_map=IdRange(1000000),
    settings={"idmap": "isolated"},
    machine_id="ab" * 16,
    cards=(CARD,),
    publish=("8080:80",),
    volumes=(Bind(source="/a", target="/b", read_only=True),),
)
line = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"])).map(str.strip)


@given(st.lists(st.tuples(st.sampled_from(["lxc.uts.name", "lxc.environment", "lxc.net.0.type"]), line)))
def test_what_is_written_is_what_is_read(items: list[tuple[str, str]]) -> None:
    assert list(spec.parse(spec.serialise(items))) == items


@given(st.text(), st.sampled_from("\n\r\0\x1b\x7f\x0b\x85\u2028"), st.text())
def test_a_control_character_never_reaches_the_file(before: str, char: str, after: str) -> None:
    with pytest.raises(Invalid):
        spec.serialise([("lxc.environment", f"A={before}{char}{after}")])


@pytest.mark.parametrize("key", ["lxc", "lxc.a b", "lxc.a=b", "lxc.a\nlxc.b", "other.key", ""])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(Invalid):
        spec.serialise([(key, "x")])


@given(st.text())
def test_any_configuration_can_be_read(text: str) -> None:
    spec.limits(spec.parse(text))
    detail.configured_isolation([item for item in spec.parse(text) if item[0] != "lxc.idmap"])


@pytest.mark.parametrize(
    ("text", "cpus", "memory"),
    [
        ("lxc.cgroup2.cpu.max = 150000 100000\nlxc.cgroup2.memory.max = 1G\n", 1.5, 1 << 30),
        ("lxc.cgroup.cpu.cfs_quota_us=50000\nlxc.cgroup.memory.limit_in_bytes=64M", 0.5, 64 << 20),
        ("lxc.cgroup2.cpu.max = max 100000\nlxc.cgroup2.memory.max = max\n", None, None),
        ("lxc.cgroup2.cpu.max = 1 0\n# lxc.cgroup2.memory.max = 5\n", None, None),
        ("", None, None),
    ],
)
def test_limits_are_read_from_either_version(text: str, cpus: float | None, memory: int | None) -> None:
    assert spec.limits(spec.parse(text)) == spec.Limits(cpus=cpus, memory_bytes=memory)


def test_a_rename_changes_only_what_holds_the_old_name() -> None:
    text = (
        "# web is mine\nlxc.uts.name=web\nlxc.rootfs.path = dir:/l/web/rootfs\n"
        "lxc.mount.entry = /l/webother/x x none bind 0 0\nlxc.environment = A=/l/web/x\n"
    )
    assert spec.renamed(text, Path("/l/web"), Path("/l/new")) == (
        "# web is mine\nlxc.uts.name = new\nlxc.rootfs.path = dir:/l/new/rootfs\n"
        "lxc.mount.entry = /l/webother/x x none bind 0 0\nlxc.environment = A=/l/web/x\n"
    )


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(Invalid) as refused:
        settings.parse({"previleged": "true"})
    assert "'privileged'" in refused.value.hint
    with pytest.raises(Invalid):
        settings.parse({"privileged": "true", "idmap": "isolated"})
    for bad in ({"idmap": "own"}, {"apparmor": "a\nb"}, {"nesting": ""}):
        with pytest.raises(Invalid):
            settings.parse(bad)


def test_the_mark_survives_a_round(tmp_path: Path) -> None:
    mark.write(tmp_path, MARK)
    assert mark.read(tmp_path) == MARK
    assert (tmp_path / mark.FILE).stat().st_mode & 0o777 == 0o600
    assert mark.read(tmp_path / "none") is None


@given(st.one_of(st.binary(), st.dictionaries(st.text(), st.integers()).map(lambda data: str(data).encode())))
def test_nonsense_is_not_a_mark(data: bytes) -> None:
    with pytest.raises(ValueError):
        mark.parse(data)


def test_an_unreadable_mark_is_told(tmp_path: Path) -> None:
    (tmp_path / mark.FILE).write_text("{")
    with pytest.raises(Failed) as refused:
        mark.read(tmp_path)
    assert refused.value.code == "mark_unreadable" and refused.value.hint


def test_host_interfaces_are_unique_and_fit_the_kernel() -> None:
    assert len(CARD.host_interface) <= 15
    assert layers.lower_path(Path("/s"), Path("/t"), None) == Path("/t")
    keys = {layers.lower_path(Path("/s"), Path(tree), IdRange(base)) for tree in ("/t", "/u") for base in (1, 2)}
    assert len(keys) == 4


PASSWD = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1001:Ann:/home/ann:/bin/zsh\nbad:x:y:1::/:\nrel:x:5:5::home:sh\n"


@pytest.mark.parametrize(
    ("wanted", "uid", "gid", "home", "shell"),
    [
        (None, 0, 0, "/root", "/bin/bash"),
        ("ann", 1000, 1001, "/home/ann", "/bin/zsh"),
        ("1000", 1000, 1001, "/home/ann", "/bin/zsh"),
        ("77", 77, 77, "/", "/bin/sh"),
        ("ann:staff", 1000, 50, "/home/ann", "/bin/zsh"),
        ("ann:7", 1000, 7, "/home/ann", "/bin/zsh"),
        ("rel", 5, 5, "/", "/bin/sh"),
    ],
)
def test_users_are_the_guests(wanted: str | None, uid: int, gid: int, home: str, shell: str) -> None:
    user = commands.find_user(PASSWD, "staff:x:50:\n", wanted)
    assert (user.uid, user.gid, user.home, user.shell) == (uid, gid, home, shell)


@pytest.mark.parametrize("wanted", ["bad", "-1", "99999999999999", "ann:none", "x\0"])
def test_users_that_are_not_there(wanted: str) -> None:
    with pytest.raises(Invalid):
        commands.find_user(PASSWD, "", wanted)


@given(st.text(), st.text(), st.text())
def test_any_passwd_is_read(passwd: str, group: str, wanted: str) -> None:
    with suppress(Invalid):
        commands.find_user(passwd, group, wanted)


def test_variables_go_in_by_environment_unless_the_tool_would_read_them() -> None:
    command = Command(argv=("env",), env={"TOKEN": "secret", "LD_PRELOAD": "/x.so", "PATH": "/guest"})
    argv, env = commands.attach_argv(Client(Path("/l")), "web", command, commands.ROOT)
    assert "TOKEN=secret" not in " ".join(argv) and env["TOKEN"] == "secret"
    assert "LD_PRELOAD" not in env and "PATH" not in env
    assert "LD_PRELOAD=/x.so" in argv and "PATH=/guest" in argv
    assert argv[argv.index("--") :] == ["--", "env"]
    with pytest.raises(Invalid):
        commands.attach_argv(Client(Path("/l")), "web", Command(argv=("a",), env={"A=B": "c"}), commands.ROOT)


@given(st.lists(st.binary(max_size=5).map(lambda part: part.replace(b"\n", b""))), st.booleans(), st.integers(0, 9))
def test_tail(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool, count: int) -> None:
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    path = tmp_path_factory.getbasetemp() / "tail"
    path.write_bytes(data)
    with path.open("rb") as file:
        shown = data[logs.tail_offset(file.fileno(), count) :]
    assert (
        shown == b"".join(data.splitlines(keepends=True)[-count:] if count else [])
        or b"\r" in data
        or any(char in data for char in b"\x0b\x0c\x1c\x1d\x1e\x85")
    )


def test_lines_of_lxc_monitor() -> None:
    last: dict[str, str] = {}
    said = ["STARTING", "RUNNING", "FREEZING", "FROZEN", "FROZEN", "THAWED", "THAWED", "RUNNING", "STOPPING", "STOPPED"]
    heard = [watch.state_event(f"'web' changed state to [{state}]", last) for state in said]
    assert [event.action for event in heard if event] == ["started", "paused", "resumed", "stopped"]
    assert watch.state_event("'web' exited with status [0]", last) is None
    assert watch.state_event("nonsense", last) is None
    assert last == {}


def test_texts_inside() -> None:
    assert seed.hosts("web", (CARD,)).endswith("10.87.0.5\tweb.triune web\n")
    assert seed.hosts("web", ()).endswith("127.0.1.1\tweb\n")
    unit = seed.networkd(0, CARD)
    assert "Address=10.87.0.5/24\nGateway=10.87.0.1\n" in unit
    assert "Gateway" not in seed.networkd(1, CARD)


def test_the_first_errors_of_a_log_are_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "start.log"
    assert start_errors(log) == "LXC left no log"
    log.write_text(
        "lxc-start web 20250101000000.000 WARN     conf - ../src/lxc/conf.c:x:1 - not this\n"
        "lxc-start web 20250101000000.000 ERROR    network - ../src/lxc/network.c:x:2 - No bridge br9\n"
    )
    assert start_errors(log) == "No bridge br9"


def test_our_own_uptime_is_read() -> None:
    assert 0 <= detail.uptime_of(os.getpid()) < 86400
    assert detail.isolation_of(os.getpid())["kernel"] == "shared"


def test_an_empty_or_missing_path_is_an_empty_inventory(tmp_path: Path) -> None:
    engine = LxcEngine(tmp_path / "none", state_dir=tmp_path / "state")
    assert list(engine.list()) == []
    with pytest.raises(NotFound) as refused:
        engine.get("nobody")
    assert refused.value.code == "instance_not_found"
    for name in ("../x", "", ".", "a/b"):
        with pytest.raises(NotFound):
            engine.get(name)
        engine.delete(name)
    with pytest.raises(NotFound):
        engine.start("nobody", Silent())


def test_stopped_ones_are_listed_from_their_files(tmp_path: Path) -> None:
    engine = LxcEngine(tmp_path, state_dir=tmp_path / "state")
    if "binding" in engine.probe().reason:
        pytest.skip("liblxc's binding is not installed")
    for number in range(3):
        folder = tmp_path / f"c{number}"
        folder.mkdir()
        (folder / "config").write_text("lxc.cgroup2.memory.max = 1M\n")
    (tmp_path / "half").mkdir()
    mark.write(tmp_path / "half", MARK)
    mark.write(tmp_path / "c1", MARK)
    rows = {row.name: row for row in engine.list()}
    assert sorted(rows) == ["c0", "c1", "c2"]
    assert (rows["c0"].origin, rows["c1"].origin, rows["c1"].image) == ("adopted", "managed", "debian/12")
    assert rows["c0"].memory_bytes == 1 << 20 and rows["c0"].state is State.STOPPED
    (tmp_path / "c0/config").write_text("lxc.cgroup2.memory.max = 22M\n")
    (tmp_path / "c1" / mark.FILE).write_text("{")
    rows = {row.name: row for row in engine.list()}
    assert rows["c0"].memory_bytes == 22 << 20
    assert rows["c1"].state is State.ERROR and rows["c1"].error
