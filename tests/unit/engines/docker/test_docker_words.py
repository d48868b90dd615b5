"""Docker's answers in our words: events, states, times, ports, limits, statistics, pulls, errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.domain.errors import Conflict, Denied, Failed, Invalid, NotFound, TriuneError, Unreachable, Unsupported
from triune.domain.instance import Origin, State
from triune.domain.network import Network, Publish
from triune.engines.base import Credentials
from triune.engines.docker import bridging, client, containers, counters, inventory, ports, probing, pulling, watch
from triune.engines.docker.commands import programs
from triune.engines.docker.detail import isolation
from triune.engines.docker.inventory import Limits


def event(action: str, **attributes: str) -> bytes:
    actor = {"ID": "abc", "Attributes": {"name": "web", **attributes}}
    return json.dumps({"Type": "container", "Action": action, "Actor": actor}).encode()


class TestEvents:
    @pytest.mark.parametrize(
        ("action", "ours"),
        [
            ("create", "created"),
            ("start", "started"),
            ("die", "stopped"),
            ("pause", "paused"),
            ("unpause", "resumed"),
            ("destroy", "deleted"),
            ("rename", "renamed"),
            ("update", "changed"),
            ("health_status: healthy", "changed"),
        ],
    )
    def test_ours(self, action: str, ours: str) -> None:
        found = watch.translate(event(action))
        assert found is not None
        assert (found.engine, found.action, found.name) == ("docker", ours, "web")

    @pytest.mark.parametrize("action", ["exec_start: sh", "kill", "top", "attach"])
    def test_others_are_left_out(self, action: str) -> None:
        assert watch.translate(event(action)) is None

    def test_details(self) -> None:
        died = watch.translate(event("die", exitCode="7"))
        renamed = watch.translate(event("rename", oldName="/old"))
        assert died is not None
        assert died.data["exit_code"] == "7"
        assert renamed is not None
        assert renamed.data["old"] == "old"

    @given(st.binary())
    def test_nonsense_is_ignored(self, raw: bytes) -> None:
        assert watch.translate(raw) is None

    @given(st.lists(st.binary(max_size=20).filter(bool)))
    def test_lines_do_not_depend_on_pieces(self, pieces: list[bytes]) -> None:
        left = [*pieces, b"\n", b""]
        found = list(watch.lines(lambda: left.pop(0)))
        assert found == [line for line in b"".join(pieces).split(b"\n") if line.strip()]


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "Id": "f" * 64,
        "Names": ["/other/alias", "/web"],
        "Image": "nginx",
        "Created": 1_900_000_000,
        "State": "running",
        "Labels": {},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": ""}}},
        **changes,
    }


class TestRows:
    def test_an_adopted_one(self) -> None:
        row = inventory.row(entry(), Limits(0.5, 1024))
        assert row.name == "web"
        assert row.origin is Origin.ADOPTED
        assert row.image == "nginx"
        assert row.addresses == ("172.17.0.2",)
        assert row.created == datetime.fromtimestamp(1_900_000_000, UTC)
        assert (row.cpus, row.memory_bytes, row.accelerated) == (0.5, 1024, None)

    def test_a_managed_one(self) -> None:
        labels = {"triune.managed": "1", "triune.image": "debian/12", "triune.created": "2030-01-02T03:04:05+00:00"}
        row = inventory.row(entry(Labels=labels, State="exited"), Limits())
        assert (row.origin, row.image, row.state) == (Origin.MANAGED, "debian/12", State.STOPPED)
        assert row.created == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("word", "state"),
        [
            ("created", State.STOPPED),
            ("exited", State.STOPPED),
            ("running", State.RUNNING),
            ("paused", State.PAUSED),
            ("restarting", State.ERROR),
            ("dead", State.ERROR),
            ("removing", State.ERROR),
        ],
    )
    def test_states(self, word: str, state: State) -> None:
        row = inventory.row(entry(State=word), Limits())
        assert row.state is state
        assert (row.error is not None) == (state is State.ERROR)

    def test_limits_however_given(self) -> None:
        assert inventory.limits_of({"NanoCpus": 1_500_000_000, "Memory": 7}) == Limits(1.5, 7)
        assert inventory.limits_of({"CpuQuota": 50_000, "CpuPeriod": 100_000}) == Limits(0.5, None)
        assert inventory.limits_of({"CpuQuota": -1, "Memory": 0}) == Limits()

    def test_times(self) -> None:
        assert containers.timestamp("2030-01-02T03:04:05.123456789Z") == datetime(
            2030, 1, 2, 3, 4, 5, 123456, tzinfo=UTC
        )
        assert containers.timestamp("2030-01-02T03:04:05.1Z") == datetime(2030, 1, 2, 3, 4, 5, 100000, tzinfo=UTC)
        assert containers.timestamp("0001-01-01T00:00:00Z") is None
        assert containers.timestamp("soon") is None


class TestPorts:
    def test_both_families_are_one(self) -> None:
        found = ports.listed(
            [
                {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"IP": "127.0.0.1", "PrivatePort": 53, "PublicPort": 53, "Type": "udp"},
                {"PrivatePort": 443, "Type": "tcp"},
            ]
        )
        assert [str(publish) for publish in found] == ["8080:80", "127.0.0.1:53:53/udp"]

    def test_wanted(self) -> None:
        host = {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "81/tcp": [{"HostPort": ""}]}}
        assert ports.wanted(host) == [Publish(host_port=8080, guest_port=80)]

    def test_taken_by_another_container(self) -> None:
        host = {"HostConfig": {"PortBindings": {"80/udp": [{"HostIp": "127.0.0.9", "HostPort": "45631"}]}}}
        other = {"Ports": [{"IP": "0.0.0.0", "PrivatePort": 1, "PublicPort": 45631, "Type": "udp"}]}
        assert ports.taken(host, []) == []
        assert len(ports.taken(host, [other])) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, Invalid),
            (401, Denied),
            (403, Denied),
            (404, NotFound),
            (409, Conflict),
            (500, Failed),
            (501, Unsupported),
            (503, Failed),
        ],
    )
    def test_by_status(self, status: int, kind: type[TriuneError]) -> None:
        error = client.refused(status, "it\nsaid \x1b[31mno", None)
        assert type(error) is kind
        assert error.message == "Docker: it said [31mno"
        assert error.hint

    def test_the_callers_word_for_a_404(self) -> None:
        mine = NotFound("instance_not_found", "x")
        assert client.refused(404, "No such container", mine) is mine

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (NotFound("x", "Docker: manifest for a:1 not found: manifest unknown"), NotFound),
            (Failed("x", 'Docker: Head "http://127.0.0.1:1/v2/": no basic auth credentials'), Denied),
            (Failed("x", "Docker: unauthorized: authentication required"), Denied),
            (
                Failed("x", 'Docker: Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connection refused'),
                Unreachable,
            ),
            (Failed("x", "Docker: dial tcp: lookup r.example: no such host"), Unreachable),
            (Failed("x", "Docker: no space left on device"), Failed),
        ],
    )
    def test_of_pulls(self, error: TriuneError, kind: type[TriuneError]) -> None:
        found = pulling.pull_error("r/a:1", error, Credentials(username="u", password="hidden"))
        assert type(found) is kind
        assert found.hint
        assert "hidden" not in f"{found.message} {found.hint}"


class TestPullProgress:
    def test_adds_up_layers(self) -> None:
        progress = pulling.PullProgress()

        def feed(layer: str, status: str, current: int = 0, total: int = 0) -> float | None:
            detail = {"current": current, "total": total} if total else {}
            return progress.feed(json.dumps({"id": layer, "status": status, "progressDetail": detail}).encode())

        assert feed("1", "Pulling from x") is None
        assert feed("a", "Downloading", 50, 100) == 0.25
        assert feed("b", "Downloading", 0, 300) == pytest.approx(0.0625)
        assert feed("a", "Extracting", 100, 100) == 0.25
        feed("a", "Pull complete")
        assert feed("b", "Pull complete") == 1.0
        assert progress.text == "2 of 2 layers"

    @given(st.lists(st.binary(max_size=40)))
    def test_nonsense_never_raises(self, data: list[bytes]) -> None:
        progress = pulling.PullProgress()
        for line in data:
            fraction = progress.feed(line)
            assert fraction is None or 0 <= fraction <= 1


class TestBridging:
    NETWORK = Network(name="t0", bridge="t0", subnet="10.87.0.0/16", gateway="10.87.0.1", domain="x")

    def test_docker_gets_the_last_quarter(self) -> None:
        body = bridging.network_body(self.NETWORK)
        assert body["IPAM"]["Config"] == [
            {"Subnet": "10.87.0.0/16", "IPRange": "10.87.192.0/18", "Gateway": "10.87.0.1"}
        ]

    def test_matches_what_docker_tells_of_it(self) -> None:
        body = bridging.network_body(self.NETWORK)
        assert bridging.matches({**body, "Id": "x", "Scope": "local"}, body)
        assert not bridging.matches({**body, "Options": {bridging.BRIDGE_NAME: "other"}}, body)
        assert not bridging.matches({**body, "IPAM": {"Config": []}}, body)
        assert not bridging.matches({**body, "IPAM": None, "Options": None}, body)


class TestStatistics:
    def test_both_control_group_versions(self) -> None:
        v1 = {"memory_stats": {"usage": 1000, "stats": {"total_inactive_file": 300}}}
        v2 = {"memory_stats": {"usage": 1000, "stats": {"inactive_file": 400}}}
        assert counters.counters(v1, None).memory_bytes == 700
        assert counters.counters(v2, 5).memory_bytes == 600

    def test_sums(self) -> None:
        found = counters.counters(
            {
                "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
                "blkio_stats": {
                    "io_service_bytes_recursive": [
                        {"op": "Read", "value": 1},
                        {"op": "read", "value": 2},
                        {"op": "Write", "value": 4},
                        {"op": "Total", "value": 7},
                    ]
                },
                "networks": {"eth0": {"rx_bytes": 10, "tx_bytes": 20}, "eth1": {"rx_bytes": 1, "tx_bytes": 2}},
                "pids_stats": {"current": 3},
            },
            None,
        )
        assert (found.cpu_time_s, found.disk_read_bytes, found.disk_write_bytes) == (2.5, 3, 4)
        assert (found.net_rx_bytes, found.net_tx_bytes, found.pids) == (11, 22, 3)

    def test_a_container_of_another_host_has_no_process_here(self) -> None:
        assert counters.of_process(1, "f" * 64) is None


class TestIsolation:
    def test_plain(self) -> None:
        found = isolation({"HostConfig": {"Runtime": "runc"}}, ["name=seccomp,profile=default", "name=apparmor"])
        assert (found["kernel"], found["boundary"], found["seccomp"]) == ("shared", "namespaces, seccomp", True)

    def test_privileged_has_no_seccomp(self) -> None:
        found = isolation({"HostConfig": {"Privileged": True}}, ["name=seccomp"])
        assert found["seccomp"] is False
        assert "hardly any" in found["boundary"]

    def test_user_namespaces(self) -> None:
        assert isolation({"HostConfig": {}}, ["name=userns"])["boundary"].startswith("user namespace")
        assert isolation({"HostConfig": {"UsernsMode": "host"}}, ["name=userns"])["user_namespace"] is False

    def test_gvisor_brings_its_own_kernel(self) -> None:
        found = isolation({"HostConfig": {"Runtime": "runsc"}}, [])
        assert found["kernel"] == "own"
        assert "gVisor" in found["boundary"]


def test_where_programs_are_looked_for() -> None:
    assert programs("/x/y", "/bin", "/srv") == ["/x/y"]
    assert programs("./y", "/bin", "/srv") == ["/srv/y"]
    assert programs("y", "/a:/b/:", "/srv") == ["/a/y", "/b/y"]


@pytest.mark.parametrize(
    ("info", "can"),
    [
        ({"Driver": "btrfs"}, True),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]]}, False),
        ({"Driver": "vfs"}, False),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]], "DockerRootDir": "/nowhere"}, False),
    ],
)
def test_disk_limits(info: dict[str, Any], can: bool) -> None:
    assert (probing.disk_limit(info) is None) is can
