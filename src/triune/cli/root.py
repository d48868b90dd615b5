"""The tree of commands. Nothing of a command is imported before it is used; `--help` needs only this file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import click

from triune.cli.lazy import Lazy
from triune.cli.text import clean, colours, paint

# name: (module:attribute, help, section)
_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "launch": ("launch:launch", "Create and start an instance from an image", "Instances"),
    "list": ("show:list_command", "List the instances of every engine", "Instances"),
    "show": ("show:show", "Show everything known of an instance", "Instances"),
    "start": ("lifecycle:start", "Start instances", "Instances"),
    "stop": ("lifecycle:stop", "Shut instances down", "Instances"),
    "restart": ("lifecycle:restart", "Stop and start instances", "Instances"),
    "pause": ("lifecycle:pause", "Freeze instances", "Instances"),
    "resume": ("lifecycle:resume", "Let frozen instances go on", "Instances"),
    "rename": ("lifecycle:rename", "Give an instance another name", "Instances"),
    "set": ("limits:set_limits", "Limit what an instance may use: CPU, memory, disk, network", "Instances"),
    "rm": ("lifecycle:remove", "Remove instances with their disks", "Instances"),
    "snapshot": ("snapshots:snapshot", "Take, list, put back and remove snapshots", "Instances"),
    "clone": ("snapshots:clone", "Copy an instance under a new name", "Instances"),
    "import": ("import_:import_machine", "Make an instance of a VMX, OVA, OVF or VMDK", "Instances"),
    "backup": ("backups:backup", "Back instances up, check, restore and prune backups", "Instances"),
    "exec": ("inside:execute", "Run a command in an instance", "Inside"),
    "cp": ("cp:cp", "Copy files into and out of instances", "Inside"),
    "mount": ("mount:mount", "Show an instance's files as a folder here", "Inside"),
    "umount": ("mount:umount", "Take a mounted instance's folder away", "Inside"),
    "shell": ("inside:shell", "Open a shell in an instance", "Inside"),
    "console": ("inside:console", "Attach to an instance's console", "Inside"),
    "logs": ("watching:logs", "Show what an instance wrote", "Inside"),
    "stats": ("stats:stats", "Show what instances use", "Inside"),
    "advise": ("advise:advise", "Tell which engine fits a workload, and why", "Choosing"),
    "compare": ("compare:compare", "Compare the engines, feature by feature", "Choosing"),
    "density": ("density:density", "Tell how many instances fit, and place a fleet", "Choosing"),
    "bench": ("bench:bench", "Measure native and the engines on this host, report, compare", "Choosing"),
    "audit": ("audit:audit", "Tell how strongly instances are isolated, and how to harden them", "Choosing"),
    "image": ("images:image", "Build, pull, import, list and remove images", "Host"),
    "network": ("networks:network", "Create, list and remove networks", "Host"),
    "pool": ("pools:pool", "Create, list and remove storage pools", "Host"),
    "volume": ("volumes:volume", "Create, attach, convert, import and export volumes", "Host"),
    "ops": ("ops:ops", "Look at long-running operations", "Host"),
    "events": ("watching:events", "Show what happens, as it happens", "Host"),
    "rescue": ("rescue.root:rescue", "Get machines and disks back from what VMware left", "Host"),
    "doctor": ("local:doctor", "Explain what this host can do, and why not the rest", "Host"),
    "setup": ("local:setup", "Install and start what this host lacks", "Host"),
    "uninstall": ("uninstall:uninstall", "Take Triune off this host; instances go on", "Host"),
    "serve": ("serve:serve", "Run the daemon", "Host"),
    "demo": ("demo:demo", "A VM, a system container and an app container that know each other", "Other"),
    "completion": ("completion:completion", "Print the completion script of a shell", "Other"),
    "version": ("show:version", "Show the versions of this program and of the daemon", "Other"),
}
_ALIASES: Mapping[str, str] = {
    "ls": "list",
    "ps": "list",
    "info": "show",
    "inspect": "show",
    "delete": "rm",
    "images": "image",
    "networks": "network",
    "pools": "pool",
    "volumes": "volume",
    "operations": "ops",
    "snapshots": "snapshot",
    "backups": "backup",
}


@click.group(
    cls=Lazy,
    table=_COMMANDS,
    aliases=_ALIASES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every list takes --format table|json|yaml|csv. TRIUNE_HOST names another daemon's socket. "
    "More of a command: triune COMMAND --help",
)
@click.version_option(package_name="triune", prog_name="triune")
def root() -> None:
    """Virtual machines, system containers and app containers, side by side, as one."""


def main(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code. Errors other than those of usage are raised."""
    if "_TRIUNE_COMPLETE" in os.environ:
        root.main(list(arguments), prog_name="triune")
    try:
        # Not `root.main`: it has its own way with interrupts and broken pipes.
        with root.make_context("triune", list(arguments)) as context:
            done = root.invoke(context)
    except click.exceptions.Exit as ended:
        return int(ended.exit_code)
    except click.exceptions.NoArgsIsHelpError as wrong:
        wrong.show(sys.stderr)
        return 2
    except click.UsageError as wrong:
        _usage(wrong)
        return 2
    except click.Abort:
        return 130
    except click.ClickException as wrong:
        print(f"error: {clean(wrong.format_message())}", file=sys.stderr)
        return 1
    return done if isinstance(done, int) else 0


def _usage(wrong: click.UsageError) -> None:
    colour = colours(sys.stderr)
    message = wrong.format_message().rstrip(".")
    print(f"{paint('error:', 'red', colour)} {clean(message[:1].lower() + message[1:])}", file=sys.stderr)
    where = wrong.ctx.command_path if wrong.ctx else "triune"
    if wrong.ctx:
        print(wrong.ctx.get_usage().replace("Usage:", "usage:"), file=sys.stderr)
    print(f"{paint('hint:', 'cyan', colour)} {where} --help", file=sys.stderr)
