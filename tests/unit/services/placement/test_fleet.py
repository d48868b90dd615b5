"""Fleets from files: what each column says is kept, and what is wrong is named with its line."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triune.domain.errors import Invalid
from triune.services.placement.fleet import read_hosts, read_instances
from triune.services.placement.placing import Placement, place

HOSTS = "name,cpus,memory,disk,engines,zone,labels,count\na,8,32GiB,1TiB,,z1,ssd,2\nb,8,32GiB,1TiB,lxc docker,z2,,2\n"


def placed(instances: str, hosts: str = HOSTS, **extra: int) -> Placement:
    return place(read_hosts("hosts.csv", hosts.encode()), read_instances("all.csv", instances.encode()), extra, 0.05)


def where(found: Placement) -> dict[str, tuple[str, str]]:
    return {name: (engine, host) for name, engine, host in found.rows()}


def test_engines_are_chosen_by_the_workload() -> None:
    found = where(placed("name,memory,os,packaging\nwin,4GiB,windows,\nweb,1GiB,,oci-image\nold,1GiB,,packages\n"))
    assert found["win"][0] == "kvm"
    assert found["win"][1].startswith("a-")
    assert (found["web"][0], found["old"][0]) == ("docker", "lxc")


def test_labels_rules_and_counts() -> None:
    said = "name,memory,needs,apart,together,spread,count\n"
    said += (
        "fast,1GiB,ssd,,,,3\nreplica,1GiB,,db,,,4\nbeside-1,20GiB,,,pair,,\nbeside-2,8GiB,,,pair,,\neven,1GiB,,,,w,5\n"
    )
    found = where(placed(said))
    assert len(found) == 14
    assert all(found[f"fast-{number}"][1].startswith("a-") for number in (1, 2, 3))
    assert len({found[f"replica-{number}"][1] for number in (1, 2, 3, 4)}) == 4
    assert found["beside-1"][1] == found["beside-2"][1]
    zones = Counter(found[f"even-{number}"][1][0] for number in range(1, 6))
    assert sorted(zones.values()) == [2, 3]


def test_what_no_host_can_hold_is_said_and_the_others_are_placed() -> None:
    said = "name,memory,os,needs,apart,count\nok,1GiB,,,,1\nbig,64GiB,,,,1\nmac,1GiB,macos,,,1\n"
    said += "gpu,1GiB,,gpu,,1\nq,1GiB,,,x,5\n"
    found = placed(said)
    why = {row["instance"]: row["reason"] for row in found.summary()["unplaced"]}
    assert where(found)["ok"]
    assert why["big"] == "no host is large enough for it"
    assert "no engine can serve it (" in why["mac"]
    assert "labels gpu" in why["gpu"]
    assert [reason for name, reason in why.items() if name.startswith("q-")] == [
        "no host has room left for it that keeps it apart (x)"
    ]


def test_extra_memory_of_an_engine_counts() -> None:
    said = "name,memory,engine,count\nvm,8GiB,kvm,8\n"
    assert placed(said).placed == 8
    assert placed(said, kvm=200 << 20).placed == 6


def test_yaml_says_the_same() -> None:
    rows = read_instances("all.yaml", b"- {name: web, memory: 1GiB, ci: true, needs: [ssd], count: 2}\n")
    assert rows.columns["name"] == ["web-1", "web-2"]
    assert rows.columns["needs"] == [("ssd",), ("ssd",)]
    assert rows.columns["ci"] == [True, True]


def test_the_summary_keeps_its_shape() -> None:
    summary = placed("name,memory,cpus\na,1GiB,0.5\n").summary()
    assert list(summary) == [
        *("schema", "instances", "placed", "hosts", "hosts_used", "lower_bound", "quality", "gap", "seconds"),
        *("engines", "resources", "unplaced"),
    ]
    assert summary["resources"]["cpus"] == {"placed": 0.5, "of_used_hosts": 8.0, "share": 0.0625}
    assert summary["resources"]["iops"] == {"placed": 0.0, "of_used_hosts": None, "share": None}


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("", "bad_row", "all.csv is empty"),
        ("name,memory\n", "bad_row", "no rows"),
        ("name,memroy\na,1\n", "unknown_key", "'memroy'"),
        ("name,memory\na,1GiB\nb,much\n", "bad_row", "all.csv, line 3: 'much' is no value of memory"),
        ("name,memory\na,1GiB\n\nb,1GiB,3\n", "bad_row", "all.csv, line 4 has 3 cells, and the head has 2"),
        ("name,memory\na,1GiB\nb,\n", "bad_row", "line 3: memory is empty"),
        ('name,memory\n"a,1GiB\n', "bad_row", "is no CSV"),
        ("name\na\n", "bad_row", "no column memory"),
        ("name,name,memory\na,b,1\n", "bad_row", "names name twice"),
        ("name,memory\na,1GiB\na,1GiB\n", "duplicate_name", "line 3: there is another instance 'a', in line 2"),
        ("name,memory,ci\na,1GiB,perhaps\n", "bad_row", "'perhaps' is no value of ci"),
        ("name,memory,engine\na,1GiB,xen\n", "unknown_engine", "line 2: there is no engine 'xen'"),
        ("name,memory,os,packaging\na,1GiB,windows,oci-image\n", "contradictory_workload", "line 2"),
        ("name,memory,apart,together\na,1,x,y\nb,1,x,y\n", "contradictory_demands", "line 3: a and b must be together"),
        ("name,memory,spread,together\na,1,x,y\nb,1,z,y\n", "contradictory_demands", "different words: x, z"),
        ("name,memory,count\na,1GiB,1000001\n", "bad_row", "'1000001' is no value of count"),
        ("name,memory,count\na,1,600000\nb,1,600000\n", "fleet_too_large", "1,000,000 instances"),
    ],
)
def test_wrong_instances(said: str, code: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        placed(said)
    assert caught.value.code == code
    assert told in caught.value.message
    assert caught.value.hint


def test_the_nearest_key_is_offered() -> None:
    with pytest.raises(Invalid) as caught:
        placed("name,memroy\na,1\n")
    assert "'memory'" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("name,cpus,memory\na,0,1GiB\n", "'0' is no value of cpus"),
        ("name,cpus,memory,engines\na,1,1GiB,lxc xen\n", "host a: there is no engine 'xen'"),
        ("name,cpus,memory,count\na,1,1GiB,10001\n", "10,000 hosts"),
        ("\xff", "UTF-8"),
    ],
)
def test_wrong_hosts(said: str, told: str) -> None:
    with pytest.raises(Invalid, match=told):
        place(read_hosts("h.csv", said.encode("latin-1")), read_instances("i.csv", b"name,memory\na,1\n"), {}, 0)


@pytest.mark.parametrize("said", ["a: [", "a: 1", "[1]", "- {name: a, memory: 1, speed: 2}", "- {name: a}"])
def test_wrong_yaml(said: str) -> None:
    with pytest.raises(Invalid):
        read_instances("all.yaml", said.encode())


@settings(max_examples=80)
@given(text=st.text(alphabet='name,memory\n"a1GiB ', max_size=80), ending=st.sampled_from(["csv", "yaml"]))
def test_any_text_is_read_or_refused(text: str, ending: str) -> None:
    try:
        rows = read_instances(f"all.{ending}", text.encode())
    except Invalid as error:
        assert error.hint
    else:
        assert len(rows)


def test_another_engine_serves_where_the_best_one_has_no_room() -> None:
    hosts = "name,cpus,memory,engines\nd,4,4GiB,docker\nl,4,8GiB,lxc\n"
    found = where(placed("name,memory,packaging,count\nweb,1GiB,oci-image,10\n", hosts))
    assert Counter(found.values()) == {("docker", "d"): 4, ("lxc", "l"): 6}


def test_another_engine_s_extra_memory_counts_too() -> None:
    hosts = "name,cpus,memory,engines\nd,4,4GiB,docker\nl,4,8GiB,lxc\n"
    found = placed("name,memory,packaging,count\nweb,1GiB,oci-image,12\n", hosts, lxc=1 << 30)
    assert Counter(where(found).values()) == {("docker", "d"): 4, ("lxc", "l"): 4}
