"""A copy's identity: the orders, the program (on a folder of its own), and answers that are not trusted."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from triune.domain.errors import Failed, Invalid
from triune.engines.kvm import identity
from triune.engines.kvm.identity import Identity

_ID = "0123456789abcdef0123456789abcdef"


def test_orders_are_words_and_never_twice_the_same() -> None:
    who = Identity(hostname="web", machine_id=_ID, was="old", grow=True)
    first, second = who.orders(), who.orders()
    assert {word.split("=")[0] for word in first} == {"entropy", "time", "hostname", "was", "machine_id", "grow"}
    assert f"machine_id={_ID}" in first
    assert all(" " not in word and "\n" not in word for word in first)
    assert first[0] != second[0]
    assert not any(word.startswith("hostname") for word in Identity(hostname=None, machine_id=_ID).orders())


def test_what_is_no_name_never_reaches_the_guest() -> None:
    with pytest.raises(Invalid):
        Identity(hostname="a b", machine_id=_ID).orders()
    with pytest.raises(Invalid):
        Identity(hostname="a", was="x\ny", machine_id=_ID).orders()


def test_the_program_is_perl() -> None:
    done = subprocess.run(["perl", "-c", "-"], input=identity.program(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"noise\n\x1b[31mTOKEN failed: sethostname: no\n", "sethostname: no"),
        (b"DONE\n", "DONE"),
        (b"", "''"),
        (b"x" * 10000, "xxx"),
    ],
)
def test_only_the_right_answer_counts(tmp_path: Path, answer: bytes, said: str) -> None:
    with pytest.raises(Failed, match="identity of its own") as failed:
        _tell(tmp_path, answer)
    assert said in failed.value.message
    assert "\x1b" not in failed.value.message


def test_the_answer_may_follow_noise(tmp_path: Path) -> None:
    heard = _tell(tmp_path, b"left over from before\nTOKEN done\n")
    assert heard.startswith(b"\nTOKEN entropy=")
    assert heard.endswith(b"\n")


def _tell(folder: Path, answer: bytes) -> bytes:
    path = folder / "port"
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            stream, _ = listener.accept()
            with stream:
                heard.append(stream.recv(4096))
                stream.sendall(answer)

        guest = threading.Thread(target=serve)
        guest.start()
        try:
            identity.tell(str(path), "web", "TOKEN", Identity(hostname="web", machine_id=_ID), timeout=PATIENCE)
        finally:
            guest.join(PATIENCE)
    return heard[0]
