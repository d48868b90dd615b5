"""Warm launches over HTTP: from a template where one is ready, else as ever, and the reason is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.house import House
from tests.patience import PATIENCE
from triune.domain.errors import Failed, Invalid, NotFound, Unsupported

IMAGE = "debian/12"


@pytest.fixture
def warm_house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, automatic_templates=True)
    yield house
    house.close()


def launched(house: House, name: str, **request: Any) -> dict[str, Any]:
    operation = house.client.instances.launch(name=name, image=IMAGE, engine="kvm", **request)
    result: dict[str, Any] = house.client.operations.result(operation["id"], timeout=PATIENCE)
    house.settle()  # a template is made in the background
    return result


def steps(house: House, kind: str) -> list[str]:
    operation = next(one for one in house.triune.operations.list() if one.kind == kind)
    return [step[0] for step in operation.steps]


def test_the_second_launch_is_warm(warm_house: House) -> None:
    house = warm_house
    assert launched(house, "one")["warm"] is False
    assert steps(house, "image-template") == ["template", "template-boot", "template-save"]
    assert launched(house, "two")["warm"] is True
    assert "kvm-restore" in steps(house, "launch")
    assert house.client.instances.get("two")["state"] == "running"
    assert launched(house, "three", memory="64MiB")["warm"] is False, "another machine needs another template"
    (first, second) = house.client.images.get(IMAGE)["templates"]
    assert first["engine"] == "kvm"
    assert first["ready"] is True
    assert first["size"] > 0
    assert len(house.client.images.templates()) == 2
    assert second["image"] == IMAGE


def test_cold_is_cold_and_makes_no_template(warm_house: House) -> None:
    assert launched(warm_house, "one", cold=True)["warm"] is False
    assert warm_house.client.images.templates() == []
    launched(warm_house, "two")
    assert launched(warm_house, "three", cold=True)["warm"] is False


def test_the_setting_switches_it_off(tmp_path: Path) -> None:
    house = House(tmp_path)
    try:
        launched(house, "one")
        assert house.client.images.templates() == []
    finally:
        house.close()


def test_what_cannot_start_warm_boots_and_says_why(warm_house: House) -> None:
    house = warm_house
    launched(house, "one")
    assert launched(house, "two", user_data="#cloud-config\n")["warm"] is False
    operation = next(one for one in house.triune.operations.list() if one.kind == "launch")
    assert ("cold", "booting two: user data is read at a first boot") in [step[:2] for step in operation.steps]


def test_a_template_that_fails_is_no_failure(warm_house: House) -> None:
    house = warm_house
    launched(house, "one")
    house.engine("kvm").failures["kvm-restore"] = Failed("no", "it broke", hint="")
    assert launched(house, "two")["warm"] is False
    assert house.client.instances.get("two")["state"] == "running"


def test_warm_now_and_no_more(house: House) -> None:
    client = house.client
    result = client.operations.result(client.images.warm(IMAGE, memory="128MiB")["id"], timeout=PATIENCE)
    assert result["name"] == IMAGE
    assert launched(house, "one", memory="128MiB")["warm"] is True
    client.images.cool(IMAGE)
    client.images.cool(IMAGE)
    assert client.images.get(IMAGE)["templates"] == []
    assert launched(house, "two", memory="128MiB")["warm"] is False


def test_templates_go_with_their_image(warm_house: House) -> None:
    house, client = warm_house, warm_house.client
    client.operations.result(client.images.warm(IMAGE)["id"], timeout=PATIENCE)
    assert house.engine("kvm").templates is not None
    client.operations.result(client.images.remove(IMAGE)["id"], timeout=PATIENCE)
    assert client.images.templates() == []


@pytest.mark.parametrize(
    ("image", "engine", "error"),
    [
        ("debian/99", "", NotFound),
        (IMAGE, "xen", Invalid),
        (IMAGE, "lxc", Unsupported),
        ("docker:nginx", "", Unsupported),
    ],
)
def test_what_cannot_be_kept_warm(house: House, image: str, engine: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        house.client.images.warm(image, engine=engine)


def test_no_templates_of_no_image(house: House) -> None:
    with pytest.raises(NotFound):
        house.client.images.cool("debian/99")


def test_the_command_line(house: House) -> None:
    made = house.run("image", "warm", IMAGE)
    assert made.returncode == 0, made.stderr
    assert made.stdout.decode().startswith(f"{IMAGE} is warm (")
    shown = house.run("image", "show", IMAGE).stdout.decode()
    assert "Template: kvm, 1.0 MiB, made " in shown
    assert len(json.loads(house.run("image", "show", IMAGE, "--format", "json").stdout)["templates"]) == 1
    said = house.run("launch", IMAGE, "web", "--engine", "kvm").stdout.decode()
    assert "(kvm, warm, " in said
    assert "warm" not in house.run("launch", IMAGE, "web2", "--engine", "kvm", "--cold").stdout.decode()
    assert house.run("image", "warm", IMAGE, "--remove").returncode == 0
    assert house.run("image", "warm", "debian/99").returncode == 3
