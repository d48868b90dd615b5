"""`uninstall`: take Triune off this host again, and leave every instance running."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from triune.app import Settings, Triune
from triune.cli.local import teller
from triune.cli.options import confirm, confirmable, silenceable
from triune.cli.text import clean
from triune.domain.errors import Conflict, Denied, NotFound
from triune.host.setup import service
from triune.host.setup.machine import Machine
from triune.host.setup.plan import carry_out
from triune.host.setup.removal import CommandGone, CompletionGone, DaemonGone, DataGone, TracesGone
from triune.host.setup.rootless import RootlessGone
from triune.host.setup.step import Say, Step

_NAMED = 5


@click.command()
@click.option(
    "--data",
    is_flag=True,
    help="Also remove images, pools, volumes, measurements and history. Refused while instances exist.",
)
@confirmable
@silenceable
def uninstall(data: bool, yes: bool, quiet: bool) -> None:
    """Take Triune off this host; instances go on running, and their engines have them.

    Stops the daemon and removes its network (a bridge that instances are in stays for them), its rules, names, unit,
    completion and command on PATH. Images and data stay for another `triune setup`, unless --data is given; backups and
    /etc/triune with their key stay in any case.
    """
    if os.geteuid() != 0:
        raise Denied("needs_root", "only root can take Triune off this host", hint="Run: sudo triune uninstall")
    settings = _settings()
    state = _State(settings)
    if data:
        _require_none(state)
        state.close()
    what = f"all of its data in {settings.data}" if data else "nothing of images, disks and data"
    confirm(clean(f"Take Triune off this host, and remove {what}? Instances go on."), yes=yes)

    try:
        carry_out(_plan(settings, state, data=data), teller(quiet=quiet), "Mend it, and repeat: triune uninstall")
    finally:
        state.close()
    if not quiet:
        click.echo("Triune is off this host. Its program goes as it came: pipx uninstall triune, or remove the folder.")


def _settings() -> Settings:
    """The daemon's. A configuration that is named must be there: else another daemon's data would be meant."""
    named = os.environ.get("TRIUNE_CONFIG")
    if named and not Path(named).is_file():
        raise NotFound("no_config", f"there is no configuration {named}", hint="Name the daemon's: TRIUNE_CONFIG=FILE")
    return Settings.load()


def _plan(settings: Settings, state: _State, *, data: bool) -> list[Step]:
    """The steps. What setup makes once for a host goes only with the daemon that setup starts."""
    machine = Machine()
    steps: list[Step] = [DaemonGone(machine, settings.socket, state.installed)]
    if data:
        steps.append(_Empty(state))
    steps.append(_NetworkGone(state))
    if state.installed:
        steps += [CommandGone(machine), CompletionGone(machine)]
    if data:
        steps.append(DataGone(settings.data, state.erase))
        if state.installed:
            steps += [RootlessGone(machine), TracesGone(machine)]
    return steps


class _State:
    """The daemon's services without the daemon, opened when they are asked for; none where there is no data."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._triune: Triune | None = None

    @property
    def triune(self) -> Triune | None:
        """Them."""
        if self._triune is None and (self._settings.data / "triune.db").exists():
            self._triune = Triune(self._settings)
        return self._triune

    @property
    def installed(self) -> bool:
        """Whether it is the daemon that setup starts, rather than one with a configuration of its own."""
        return self._settings.socket == Path(service.SOCKET)

    def instances(self) -> list[str]:
        """Whose data it is: all that Triune made; of a daemon of its own only those it made itself."""
        if self.triune is None:
            return []
        instances = self.triune.instances
        return sorted({*instances.intents(), *(instances.inventory.managed() if self.installed else ())})

    def erase(self) -> None:
        """Take the pools apart, and let go of the data."""
        if self.triune is not None:
            self.triune.storage.pools.erase_all()
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._triune is not None:
            self._triune.close()
        self._triune = None


@dataclass(slots=True)
class _NetworkGone:
    """Bridges, names, rules and what engines were told of them."""

    state: _State
    title: str = "Networks"
    needed: bool = True
    looked: bool = False

    def gap(self) -> str | None:
        """What of it is there; rules in others' firewalls are looked for in any case."""
        triune = self.state.triune
        if triune is None:
            return None
        left = triune.networks.withdrawal().left()
        if left or not self.looked:
            return f"remove {', '.join([*left, 'rules of ours in other firewalls'])}"
        return None

    def fill(self, say: Say) -> None:
        """Take them off, and tell what stays for whom."""
        self.looked = True
        triune = self.state.triune
        for sentence in triune.networks.withdrawal().run() if triune is not None else ():
            say("warn", sentence)


@dataclass(slots=True)
class _Empty:
    """Nobody needs the data: asked again now that nothing can be launched."""

    state: _State
    title: str = "No instances"
    needed: bool = True

    def gap(self) -> str | None:
        """Raises Conflict("instances_left")."""
        _require_none(self.state)
        return None

    def fill(self, say: Say) -> None:
        """Nothing is to do."""


def _require_none(state: _State) -> None:
    names = state.instances()
    if names:
        shown = ", ".join(names[:_NAMED]) + (" and others" if names[_NAMED:] else "")
        raise Conflict(
            "instances_left",
            f"the data is that of {shown}, which would be lost",
            hint="Remove them first with triune rm, or leave --data out.",
            instances=names,
        )
