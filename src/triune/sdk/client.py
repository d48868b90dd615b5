"""The client: the daemon's API as Python objects. Each part is imported at its first use: most commands need one."""

from __future__ import annotations

from functools import cached_property

from triune.sdk.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from triune.sdk.audits import Audits
    from triune.sdk.backups import Backups
    from triune.sdk.events import Events
    from triune.sdk.images import Images
    from triune.sdk.instances import Instances
    from triune.sdk.machines import Machines
    from triune.sdk.networks import Networks
    from triune.sdk.operations import Operations
    from triune.sdk.snapshots import Schedules, Snapshots
    from triune.sdk.storage import Pools, Volumes


class Client:
    """`host` is a unix socket's path or `unix:///path` (default: TRIUNE_HOST, then /run/triune/triune.sock).

    Every method speaks to the daemon; none keeps a connection. All raise the errors of `triune.domain.errors`:
    what the daemon says, or Unreachable where none answers.
    """

    def __init__(self, host: str | None = None, *, token: str | None = None) -> None:
        self.transport = Transport(host, token=token)

    @cached_property
    def instances(self) -> Instances:
        """VMs, system containers and app containers."""
        from triune.sdk.instances import Instances

        return Instances(self.transport)

    @cached_property
    def snapshots(self) -> Snapshots:
        """Points in time of instances."""
        from triune.sdk.snapshots import Snapshots

        return Snapshots(self.transport)

    @cached_property
    def backups(self) -> Backups:
        """Backups in a repository."""
        from triune.sdk.backups import Backups

        return Backups(self.transport)

    @cached_property
    def audits(self) -> Audits:
        """How strongly instances are isolated."""
        from triune.sdk.audits import Audits

        return Audits(self.transport)

    @cached_property
    def schedules(self) -> Schedules:
        """What is done again and again."""
        from triune.sdk.snapshots import Schedules

        return Schedules(self.transport)

    @cached_property
    def images(self) -> Images:
        """What instances start from."""
        from triune.sdk.images import Images

        return Images(self.transport)

    @cached_property
    def machines(self) -> Machines:
        """What was made elsewhere."""
        from triune.sdk.machines import Machines

        return Machines(self.transport)

    @cached_property
    def networks(self) -> Networks:
        """The segments that instances join."""
        from triune.sdk.networks import Networks

        return Networks(self.transport)

    @cached_property
    def pools(self) -> Pools:
        """Where disks and trees live."""
        from triune.sdk.storage import Pools

        return Pools(self.transport)

    @cached_property
    def volumes(self) -> Volumes:
        """Disks and folders with a life of their own."""
        from triune.sdk.storage import Volumes

        return Volumes(self.transport)

    @cached_property
    def operations(self) -> Operations:
        """Long-running actions."""
        from triune.sdk.operations import Operations

        return Operations(self.transport)

    @cached_property
    def events(self) -> Events:
        """What happens."""
        from triune.sdk.events import Events

        return Events(self.transport)

    def version(self) -> dict[str, Any]:
        """`{name, version, api, features}` of the daemon."""
        found: dict[str, Any] = self.transport.call("GET", "/v1")
        return found

    def host(self) -> dict[str, Any]:
        """Facts of the host, and of each engine what works and why not the rest."""
        found: dict[str, Any] = self.transport.call("GET", "/v1/host")
        return found
