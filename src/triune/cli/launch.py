"""`launch`."""

from __future__ import annotations

from typing import Any

import click

from triune.cli import launching
from triune.cli.options import (
    AUTO,
    Duration,
    complete_engines,
    complete_images,
    complete_networks,
    complete_pools,
    silenceable,
)
from triune.sdk import Client


@click.command()
@click.argument("image", metavar="[IMAGE]", shell_complete=complete_images)
@click.argument("name", required=False, metavar="NAME")
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="kvm, lxc, docker, rootless or auto.",
    shell_complete=complete_engines,
)
@click.option("--cpus", metavar="N", help="CPUs it may use, like 2 or 0.5.")
@click.option("--memory", metavar="SIZE", help="Memory it may use, like 512MiB.")
@click.option("--disk", metavar="SIZE", help="Size of its disk, like 10GiB.")
@click.option("--pool", metavar="POOL", help="Pool that its root goes to.", shell_complete=complete_pools)
@click.option(
    "--network",
    metavar="NET",
    help="Network to join; 'none', or 'host' for the host's own.",
    shell_complete=complete_networks,
)
@click.option("-p", "--publish", metavar="[IP:]HOST:GUEST[/udp]", multiple=True, help="Lead a port of the host to it.")
@click.option("-v", "--volume", metavar="SOURCE:/PATH[:ro]", multiple=True, help="Show it a folder or a volume.")
@click.option("-e", "--env", metavar="KEY=VALUE", multiple=True, help="An environment variable.")
@click.option(
    "-s",
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="A limit or a setting; user-data=FILE reads the file.",
)
@click.option("--iso", metavar="FILE|IMAGE", help="Boot an installer, with an empty disk, instead of an IMAGE.")
@click.option("--wait", type=click.Choice(launching.WAITS), default="ready", show_default=True, help="Until when.")
@click.option(
    "--timeout", type=Duration(), default=launching.PATIENCE, metavar="TIME", help="For becoming ready (default: 3m)."
)
@click.option("--no-start", is_flag=True, help="Create it only.")
@click.option("--cold", is_flag=True, help="Boot a virtual machine even where it could start warm.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait: print the operation's id.")
@click.option("--workload", metavar="FILE", help="With --engine auto: take the engine that fits it, as advise does.")
@click.option("--profile", type=click.Choice(["hardened"]), help="Launch it with tighter settings (docs/AUDIT.md).")
@click.option("--runtime", metavar="NAME", help="Run an app container by runsc (gVisor), kata or another runtime.")
@silenceable
def launch(image: str, name: str | None, iso: str | None, workload: str | None, quiet: bool, **given: Any) -> None:
    """Create and start an instance NAME from IMAGE.

    IMAGE is like debian/12 or docker:nginx. Without --engine the one that fits is taken, by what the launch itself or
    --workload says (see: triune advise). An installer takes the place of the image with --iso: once it has installed a
    system, the machine boots that.
    """
    if iso is not None:
        if name is not None:
            raise click.UsageError("--iso takes the place of IMAGE: give only a NAME")
        image, name = iso, image
    elif name is None:
        raise click.UsageError("give an IMAGE and a NAME")
    if workload is not None:
        if given["engine"] != AUTO:
            raise click.UsageError("--workload chooses the engine: leave --engine out")
        from triune.cli.choosing import engine_for

        given["engine"] = engine_for(workload, image if iso is None else None, given, quiet=quiet)
    if iso is not None:
        from triune.cli.installer import installer_image

        image = installer_image(Client(), iso)
    launching.launch(image, name, quiet=quiet, **given)
