"""Making a template: boot once without a card, wait until it is idle, forget what must be unique, save."""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path
from typing import Any

from triune.domain.errors import Conflict, Failed, TriuneError, Unsupported
from triune.domain.operation import Progress
from triune.engines.base import LaunchPlan
from triune.engines.kvm import identity
from triune.engines.kvm.agent import Agent
from triune.engines.kvm.client import Client, insist, library
from triune.engines.kvm.lifecycle import make_disk
from triune.engines.kvm.spec import Files, HostFacts
from triune.engines.kvm.templates_spec import PREPARE, WAITING_PORT, neutral, template_xml, waits

_BOOT = 600.0
_SETTLE = 300.0
_PREPARE = 120.0
_WAIT = 30.0
_POLL = 0.1
_IDLE = ("systemctl", "is-system-running", "--wait")


def make(
    client: Client,
    plan: LaunchPlan,
    host: HostFacts,
    files: Files,
    name: str,
    progress: Progress,
    *,
    aside: bool,
) -> str:
    """Leave the disk and the save file (`memory`) in the folder of `files`; returns the waiting program's token.

    `name` is the domain's while it boots. The domain is gone afterwards, also when it raises.
    """
    destroy(client, name)
    progress.step("template-disk", "making the template's disk")
    make_disk(neutral(plan), files)
    progress.step("template-boot", f"booting {plan.image} once")
    xml = template_xml(plan, files, host, name, aside=aside)
    domain = insist(lambda: client.call(lambda connection: connection.createXML(xml, 0), name=name))
    try:
        agent = Agent(client, domain, name)
        _until_answers(domain, agent, progress)
        progress.step("template-settle", "waiting until the guest is idle")
        # Without systemd that fails, and what was there in time is there.
        _run(agent, list(_IDLE), _SETTLE, progress)
        _prepare(agent, progress)
        token = _let_wait(client, domain, agent, name, progress)
        progress.step("template-save", "saving the guest's memory")
        with client.errors(name):
            _save(domain, files.folder / "memory")
    except BaseException:
        with contextlib.suppress(TriuneError):
            destroy(client, name)
        raise
    return token


def _save(domain: Any, path: Path) -> None:
    """Raw, whatever the host's qemu.conf says, where libvirt takes a word on it (11.2): a compressed memory would be
    unpacked at each start, and a sparse one can't be restored from a pipe.
    """
    virt = library()
    form = getattr(virt, "VIR_DOMAIN_SAVE_PARAM_IMAGE_FORMAT", None)
    if form is None:
        domain.save(str(path))
    else:
        domain.saveParams({virt.VIR_DOMAIN_SAVE_PARAM_FILE: str(path), form: "raw"}, 0)


def destroy(client: Client, name: str) -> None:
    """End the domain; gone: succeed."""
    domain = client.find(name)
    if domain is not None:
        virt = library()
        with contextlib.suppress(virt.libvirtError):
            domain.destroy()


def _until_answers(domain: Any, agent: Agent, progress: Progress) -> None:
    virt = library()
    deadline = time.monotonic() + _BOOT
    while True:
        with contextlib.suppress(Unsupported, Failed, Conflict):
            agent.ping()
            return
        active = False
        with contextlib.suppress(virt.libvirtError):
            active = bool(domain.isActive())
        if not active:
            raise _unfit("it stopped while it booted")
        if time.monotonic() > deadline:
            raise _unfit(f"its guest agent did not answer within {_BOOT:g} s")
        progress.check()
        time.sleep(_POLL)


def _prepare(agent: Agent, progress: Progress) -> None:
    status, said = _run(agent, ["/bin/sh", "-c", PREPARE], _PREPARE, progress)
    if status != 0:
        raise _unfit(f"it could not be made ready: {said}")


def _let_wait(client: Client, domain: Any, agent: Agent, name: str, progress: Progress) -> str:
    """Start the program that will take the identity, and return once it has opened its port."""
    token = secrets.token_hex(16)
    try:
        pid = identity.wait(agent, WAITING_PORT, token)
    except Failed:
        raise _unfit("it has no Perl") from None
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        with client.errors(name):
            if waits(domain.XMLDesc(0)):
                return token
        if agent.outcome(pid) is not None:
            break
        progress.check()
        time.sleep(_POLL)
    raise _unfit("it did not open its command port")


def _run(agent: Agent, argv: list[str], timeout: float, progress: Progress) -> tuple[int, str]:
    try:
        pid = agent.execute(argv, capture=True)
    except Failed as error:
        return 127, error.message
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done = agent.outcome(pid)
        if done is not None:
            text = (done[2] or done[1]).decode(errors="replace")[-300:]
            return done[0], "".join(char if char.isprintable() else " " for char in text).strip()
        progress.check()
        time.sleep(_POLL)
    return -1, f"{argv[0]} did not end within {timeout:g} s"


def _unfit(why: str) -> Failed:
    return Failed(
        "template_failed",
        f"this image can't be kept warm: {why}",
        hint="Instances of it boot as usual. Try again with: triune image warm IMAGE",
        why=why,
    )
