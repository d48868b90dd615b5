"""Whether a machine came up: what counts as a sign, and honest words where there is none."""

from __future__ import annotations

import pytest

from triune.engines.importing import Signs
from triune.services.machines import service


@pytest.mark.parametrize(
    ("said", "leased", "sign"),
    [
        (b"", False, ""),
        (b"", True, "address"),
        (b"Debian GNU/Linux 12 web ttyS0\r\n\r\nweb login: ", False, "login"),
        (b"web login: root\r\nLast login: yesterday\r\n# ", False, ""),
        (b"kernel panic", False, ""),
        (b"\xff\xfe login:", True, "login"),
    ],
)
def test_signs(said: bytes, leased: bool, sign: str) -> None:
    assert service._sign(Signs(running=True, said=said), leased) == sign


def test_the_agent_is_the_best_sign() -> None:
    assert service._sign(Signs(running=True, agent=True, said=b"web login: "), True) == "agent"


def test_no_sign_is_told_with_the_last_word_of_the_console() -> None:
    said = b"booting\r\n\x1b[06;01H\x1b[1mNo bootable device.\x1b[0m\r\n"
    told = service._told("web", Signs(running=True, said=said), "", set(), 180.0)
    assert told["up"] is False
    assert "no sign of life within 3m 0s" in told["sentence"]
    assert "No bootable device." in told["sentence"]
    assert told["said"] == ["booting", "No bootable device."]


def test_one_that_stopped_is_not_up_whatever_it_showed() -> None:
    told = service._told("web", Signs(running=False), "login", set(), 5.0)
    assert (told["up"], told["sign"]) == (False, "")
    assert "stopped by itself" in told["sentence"]
