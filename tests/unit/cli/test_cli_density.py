"""`triune density` as a command: formats, exit codes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from triune.cli.root import main
from triune.domain.errors import Failed, Invalid


@pytest.fixture
def fleet(tmp_path: Path) -> list[str]:
    hosts, instances = tmp_path / "hosts.csv", tmp_path / "instances.csv"
    hosts.write_text("name,cpus,memory\na,4,8GiB\nb,4,8GiB\n")
    instances.write_text("name,memory,cpus,packaging\nweb,2GiB,1,oci-image\ndb,4GiB,1,packages\n")
    return ["density", "--effort", "0", "--fleet", str(hosts), str(instances)]


def test_a_table(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fleet) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 of 2 instances on 1 of 2 hosts\nNo placement needs fewer hosts: 1 is the lower bound.\n")
    assert "memory" in said


def test_other_formats_say_the_same(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fleet, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["instance"]: row["engine"] for row in found["placements"]} == {"web": "docker", "db": "lxc"}
    assert found["hosts_used"] == found["lower_bound"] == 1
    assert main([*fleet, "--format", "csv"]) == 0
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == found["placements"]
    assert main([*fleet, "--format", "yaml"]) == 0
    assert "placements:" in capsys.readouterr().out


def test_one_that_fits_nowhere_ends_with_1_and_the_rest_is_printed(
    fleet: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    instances = Path(fleet[-1])
    instances.write_text(instances.read_text() + "huge,99GiB,1,\n")
    with pytest.raises(Failed, match="huge") as caught:
        main([*fleet, "--format", "json"])
    assert (caught.value.code, caught.value.exit_code) == ("not_all_placed", 1)
    found = json.loads(capsys.readouterr().out)
    assert (found["placed"], found["unplaced"][0]["instance"]) == (2, "huge")


def test_wrong_files_and_options(fleet: list[str], tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="can't read"):
        main([*fleet[:-1], str(tmp_path / "none.csv")])
    with pytest.raises(Invalid, match="ENGINE=SIZE"):
        main([*fleet, "--extra", "kvm"])
    with pytest.raises(Invalid, match="xen"):
        main([*fleet, "--extra", "xen=1GiB"])
