"""`launch`."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import click

from triune.cli.installer import installer_image
from triune.cli.options import Duration, complete_engines, complete_images, complete_networks, pairs, silenceable
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.errors import Invalid
from triune.domain.units import format_duration, parse_cpus, parse_size
from triune.sdk import Client

_MOST_USER_DATA = 2**20


@click.command()
@click.argument("image", metavar="[IMAGE]", shell_complete=complete_images)
@click.argument("name", required=False, metavar="NAME")
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--engine", default="auto", show_default=True, help="kvm, lxc, docker or auto.", shell_complete=complete_engines
)
@click.option("--cpus", metavar="N", help="CPUs it may use, like 2 or 0.5.")
@click.option("--memory", metavar="SIZE", help="Memory it may use, like 512MiB.")
@click.option("--disk", metavar="SIZE", help="Size of its disk, like 10GiB.")
@click.option("--network", metavar="NET", help="Network to join; 'none' for none.", shell_complete=complete_networks)
@click.option("-p", "--publish", metavar="[IP:]HOST:GUEST[/udp]", multiple=True, help="Lead a port of the host to it.")
@click.option("-v", "--volume", metavar="SOURCE:/PATH[:ro]", multiple=True, help="Show it a folder or a volume.")
@click.option("-e", "--env", metavar="KEY=VALUE", multiple=True, help="An environment variable.")
@click.option(
    "-s", "--set", "settings", metavar="KEY=VALUE", multiple=True, help="A setting; user-data=FILE reads the file."
)
@click.option("--iso", metavar="FILE|IMAGE", help="Boot an installer, with an empty disk, instead of an IMAGE.")
@click.option(
    "--wait", type=click.Choice(["ready", "running", "none"]), default="ready", show_default=True, help="Until when."
)
@click.option("--timeout", type=Duration(), default=180.0, metavar="TIME", help="For becoming ready (default: 3m).")
@click.option("--no-start", is_flag=True, help="Create it only.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait: print the operation's id.")
@silenceable
def launch(image: str, name: str | None, iso: str | None, detach: bool, quiet: bool, **given: Any) -> None:
    """Create and start an instance NAME from IMAGE.

    IMAGE is like debian/12 or docker:nginx. Without --engine the first that can run the image is taken. An installer
    takes the place of the image with --iso: once it has installed a system, the machine boots that.
    """
    if iso is not None:
        if name is not None:
            raise click.UsageError("--iso takes the place of IMAGE: give only a NAME")
        image, name = iso, image
    elif name is None:
        raise click.UsageError("give an IMAGE and a NAME")
    client = Client()
    begun = monotonic()
    request = _request(given, detach)
    if iso is not None:
        image = installer_image(client, iso)
    operation = client.instances.launch(name=name, image=image, **request)
    if request["wait"] == "none":
        print(operation["id"])
        return
    result = finish(client, operation, name, quiet=quiet)
    if quiet:
        return
    took = format_duration(monotonic() - begun)
    where = ", ".join(result["addresses"])
    did = "is made" if given["no_start"] else "is running"
    print(
        clean(f"{name} {did}{f' at {where}' if where and not given['no_start'] else ''} ({result['engine']}, {took})")
    )


def _request(given: dict[str, Any], detach: bool) -> dict[str, Any]:
    """The body of the API's launch, from the options. Raises Invalid."""
    settings = pairs(given["settings"], "--set")
    user_data = settings.pop("user-data", None)
    network = given["network"]
    return {
        "engine": given["engine"],
        "cpus": None if given["cpus"] is None else parse_cpus(given["cpus"]),
        "memory": None if given["memory"] is None else parse_size(given["memory"]),
        "disk": None if given["disk"] is None else parse_size(given["disk"]),
        "network": "" if network is None else None if network == "none" else network,
        "publish": list(given["publish"]),
        "volumes": [_volume(text) for text in given["volume"]],
        "env": pairs(given["env"], "--env"),
        "command": list(given["command"]),
        "settings": settings,
        "user_data": None if user_data is None else _read(user_data),
        "wait": "none" if detach else given["wait"],
        "timeout": given["timeout"],
        "start": not given["no_start"],
    }


def _volume(text: str) -> str:
    """A relative folder is the client's: made absolute, as the daemon runs elsewhere."""
    source, colon, rest = text.partition(":")
    return f"{Path(source).expanduser().absolute()}{colon}{rest}" if source.startswith((".", "~")) else text


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_USER_DATA + 1)
        if len(data) > _MOST_USER_DATA:
            raise Invalid("user_data_too_large", f"{path} is larger than 1 MiB", hint="Make the user data smaller.")
        return data.decode()
    except OSError as error:
        raise Invalid("bad_user_data", f"can't read {path}: {error.strerror}", hint="Name a readable file.") from None
    except UnicodeDecodeError:
        raise Invalid("bad_user_data", f"{path} is not UTF-8 text", hint="Name a cloud-config file.") from None
