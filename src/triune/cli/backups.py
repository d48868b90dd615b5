"""`backup`: create, list, verify, restore, cat, extract, prune, rm, schedule."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import click

from triune.cli.listing import age
from triune.cli.options import Duration, complete_instances, confirm, confirmable, formatted, quietable, silenceable
from triune.cli.problems import tell
from triune.cli.schedules import Adding, add_list_and_rm, when
from triune.cli.tables import Column, emit, structured
from triune.cli.text import clean
from triune.cli.waiting import finish
from triune.domain.errors import TriuneError
from triune.domain.units import format_duration, format_size
from triune.sdk import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

KEPT = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def _repository(command: F) -> F:
    """Add --repo and --password-file."""
    command = click.option(
        "--password-file",
        metavar="FILE",
        default="",
        help="A file with the repository's key [the one in the configuration; made at the first backup].",
    )(command)
    return click.option(
        "--repo",
        metavar="DIR|sftp:…|s3:…",
        default="",
        help="The repository: a folder, sftp:USER@HOST:/folder, s3:https://HOST/BUCKET [the configured one].",
    )(command)


def keeping(command: F) -> F:
    """Add --keep-last and so on."""
    for word in reversed(KEPT):
        what = "newest backups" if word == "last" else f"newest {word} backups"
        command = click.option(
            f"--keep-{word}", type=click.IntRange(0, 100_000), default=0, metavar="N", help=f"Keep the N {what}."
        )(command)
    return command


def where(repo: str, password_file: str) -> dict[str, str]:
    """The options as the daemon takes them: paths from here are made absolute."""
    local = bool(repo) and not repo.startswith(("sftp:", "s3:", "/"))
    key = str(Path(password_file).absolute()) if password_file else ""
    return {"repository": str(Path(repo).absolute()) if local else repo, "password_file": key}


@click.group()
def backup() -> None:
    """Back instances up into a repository: deduplicating, compressed, encrypted, incremental."""


@backup.command()
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=complete_instances)
@click.option("--all", "every", is_flag=True, help="All instances that Triune made.")
@_repository
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", help="How to print it.")
@silenceable
def create(names: tuple[str, ...], every: bool, repo: str, password_file: str, form: str, quiet: bool) -> int:
    """Back instances up, running or stopped, one after the other.

    The first backup makes the repository and, where none is given, its key. Keep a copy of the key elsewhere: without
    it no backup can be read.
    """
    client = Client()
    if every == bool(names):
        raise click.UsageError("name the instances to back up, or say --all")
    if every:
        names = tuple(row["name"] for row in client.instances.list("origin=managed")[0])
    results, worst = [], 0
    for name in dict.fromkeys(names):
        try:
            operation = client.backups.create(name, **where(repo, password_file))
            result = finish(client, operation, name, quiet=quiet or form == "json")
        except TriuneError as error:
            worst = max(worst, tell(error, name=name))
            continue
        results.append(result)
        if form == "text" and not quiet:
            _tell_made(name, result)
    if form == "json":
        sys.stdout.write(structured(results, "json"))
    return worst


def _tell_made(name: str, result: Mapping[str, Any]) -> None:
    # What is stored can be more than the instance's own data: its image goes along once, and small files are padded.
    added = f"{format_size(result['size'])}, {format_size(result['added'])} new in the repository"
    print(
        clean(
            f"{name} is backed up as {result['backup']} ({added}, {result['consistency']}, "
            f"{format_duration(result['seconds'])})"
        ),
        flush=True,
    )
    for volume in result["left_out"]:
        print(clean(f"not in it: the volume {volume}, a disk or gone (see: triune volume export)"), file=sys.stderr)
    if result["made_key"]:
        print(
            clean(f"The repository's key is in {result['made_key']}: keep a copy elsewhere, nothing opens it without."),
            file=sys.stderr,
        )


@backup.command("list")
@click.argument("name", required=False, shell_complete=complete_instances)
@_repository
@formatted
@quietable
def list_backups(name: str | None, repo: str, password_file: str, form: str, quiet: bool) -> None:
    """List the backups in a repository, the oldest first; of one instance, or all."""
    rows = Client().backups.list(**where(repo, password_file), instance=name)
    empty = "No backups. Make one: triune backup create NAME --repo DIR"
    emit(rows, _COLUMNS, form=form, quiet="id" if quiet else None, empty=empty)


@backup.command()
@_repository
@click.option("--format", "form", type=click.Choice(("text", "json", "yaml")), default="text", help="How to print it.")
@silenceable
def verify(repo: str, password_file: str, form: str, quiet: bool) -> int:
    """Read and check every chunk of a repository; name the damaged ones, and the backups and files they are in."""
    client = Client()
    begun = monotonic()
    operation = client.backups.verify(**where(repo, password_file))
    result = finish(client, operation, "repository", quiet=quiet or form != "text")
    if form != "text":
        sys.stdout.write(structured(result, form))
    elif result["ok"]:
        if not quiet:
            print(f"all {result['backups']} backups are whole ({format_duration(monotonic() - begun)})")
    else:
        _tell_damage(result)
    return 0 if result["ok"] else 1


def _tell_damage(result: Mapping[str, Any]) -> None:
    print(clean(f"error: the repository {result['repository']} is damaged"), file=sys.stderr)
    for entry in result["damaged"]:
        chunk = f"chunk {entry['chunk'][:16]}" if entry["chunk"] else "a folder"
        files = ", ".join(entry["files"][:5]) + (", …" if len(entry["files"]) > 5 else "")
        print(clean(f"  {chunk} in backup {entry['backup']} of {entry['instance'] or 'an image'}: {files}"))
    if not result["damaged"]:
        for line in result["problems"]:
            print(clean(f"  {line}"))
    print(
        "hint: all other backups are whole; restore a damaged one without what is lost: --skip-damaged", file=sys.stderr
    )


@backup.command()
@click.argument("which", metavar="BACKUP")
@click.option("--name", required=True, metavar="NEW", help="Of the new instance.")
@_repository
@click.option("--start", is_flag=True, help="Start it.")
@click.option("--no-publish", is_flag=True, help="Do not publish the ports it had.")
@click.option("--skip-damaged", is_flag=True, help="Leave out what the repository has lost, and name it.")
@silenceable
def restore(
    which: str,
    name: str,
    repo: str,
    password_file: str,
    start: bool,
    no_publish: bool,
    skip_damaged: bool,
    quiet: bool,
) -> None:
    """Make a new instance of a backup, on this host or another; it need not have the image.

    BACKUP is an id of `triune backup list`, or an instance's name for its newest backup.
    """
    client = Client()
    begun = monotonic()
    operation = client.backups.restore(
        which,
        name,
        **where(repo, password_file),
        start=start,
        publish=not no_publish,
        skip_damaged=skip_damaged,
    )
    result = finish(client, operation, name, quiet=quiet)
    for lost in result["lost"]:
        print(clean(f"lost: {lost}"), file=sys.stderr)
    if not quiet:
        took = format_duration(monotonic() - begun)
        did = "is restored and started" if start else "is restored, stopped"
        print(clean(f"{name} {did}, from backup {result['backup']} ({result['engine']}, {took})"))


@backup.command()
@click.argument("which", metavar="BACKUP")
@click.argument("path")
@_repository
def cat(which: str, path: str, repo: str, password_file: str) -> None:
    """Write a file of a backup to standard output; PATH as inside the instance."""
    for piece in Client().backups.content(which, path, **where(repo, password_file)):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@backup.command()
@click.argument("which", metavar="BACKUP")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--to", "folder", required=True, metavar="DIR", type=click.Path(file_okay=False), help="Where to.")
@_repository
@silenceable
def extract(which: str, paths: tuple[str, ...], folder: str, repo: str, password_file: str, quiet: bool) -> None:
    """Put files and folders of a backup into a folder, with owners, modes, times and attributes."""
    client = Client()
    target = Path(folder).absolute()
    operation = client.backups.extract(which, paths, str(target), **where(repo, password_file))
    result = finish(client, operation, which, quiet=quiet)
    if not quiet:
        for one in result["extracted"]:
            print(clean(one))


@backup.command()
@click.argument("name", required=False, shell_complete=complete_instances)
@_repository
@keeping
@click.option("--dry-run", is_flag=True, help="Only say which would go.")
@confirmable
@silenceable
def prune(name: str | None, repo: str, password_file: str, dry_run: bool, yes: bool, quiet: bool, **keep: int) -> None:
    """Let go of backups that no rule keeps, of one instance or of each, and free their space."""
    rule = _rule(keep)
    if not rule:
        raise click.UsageError("say what to keep: --keep-last 10, --keep-daily 7, …")
    client = Client()
    place = where(repo, password_file)
    if not dry_run and not yes:
        look = client.backups.prune(rule, instance=name, dry_run=True, **place)
        gone = finish(client, look, "repository", quiet=True)["removed"]
        if gone:
            confirm(f"{len(gone)} backups go for good ({_named(gone)}). Remove them?", yes=yes)
    result = finish(
        client, client.backups.prune(rule, instance=name, dry_run=dry_run, **place), "repository", quiet=quiet
    )
    if not quiet:
        gone = result["removed"]
        verb = "would go" if dry_run else "are removed"
        print(clean(f"{len(gone)} backups {verb}{': ' + _named(gone) if gone else ''}"))


def _named(gone: Sequence[Mapping[str, Any]]) -> str:
    shown = ", ".join(f"{one['backup']} of {one['instance']}" for one in gone[:8])
    return shown + (", …" if len(gone) > 8 else "")


@backup.command("rm")
@click.argument("backups", metavar="BACKUP...", nargs=-1, required=True)
@_repository
@confirmable
@silenceable
def remove(backups: tuple[str, ...], repo: str, password_file: str, yes: bool, quiet: bool) -> int:
    """Remove backups by their ids, and free what only they needed."""
    client = Client()
    confirm(f"Remove {len(backups)} backups for good?", yes=yes)
    worst = 0
    for one in dict.fromkeys(backups):
        try:
            finish(client, client.backups.remove(one, **where(repo, password_file)), one, quiet=quiet)
        except TriuneError as error:
            worst = max(worst, tell(error, name=one))
            continue
        if not quiet:
            print(clean(f"{one} is removed"))
    return worst


@backup.group(cls=Adding, subcommand_metavar="NAME|--all --every TIME --repo DIR | list | rm SCHEDULE...")
def schedule() -> None:
    """Back an instance, or all of them, up again and again, and let the old backups go.

    triune backup schedule NAME --at 03:00 --repo DIR --keep-daily 7 --keep-weekly 4
    """


@schedule.command()
@click.argument("name", required=False, shell_complete=complete_instances)
@click.option(
    "--all", "everything", is_flag=True, help="All instances that Triune made, those launched later included."
)
@click.option("--every", type=Duration(), metavar="TIME", help="How often: 6h, 1d.")
@click.option("--at", metavar="HH:MM", help="Daily at this time of the daemon's host, instead of --every.")
@_repository
@keeping
@click.option("--name", "called", metavar="SCHEDULE", help="Its own name [made of the instance's and the time].")
@silenceable
def add(
    name: str | None,
    everything: bool,
    every: float | None,
    at: str | None,
    repo: str,
    password_file: str,
    called: str | None,
    quiet: bool,
    **keep: int,
) -> None:
    """Add a schedule. A run that is missed, because the host was off, is made up for once."""
    if everything == bool(name):
        raise click.UsageError("name the instance to back up, or say --all")
    if every is None and at is None:
        raise click.UsageError("say when: --every 1d, or --at 03:00")
    made = Client().schedules.create(
        name, name=called, every=every, at=at, keep=_rule(keep), action="backup", **where(repo, password_file)
    )
    if not quiet:
        print(clean(f"schedule {made['name']}: a backup of {name or 'every instance'} {when(made)}"))


add_list_and_rm(
    schedule, "backup", "No schedules. Add one: triune backup schedule NAME --at 03:00 --repo DIR --keep-daily 7"
)


def _rule(keep: Mapping[str, int]) -> dict[str, int]:
    return {word: keep[f"keep_{word}"] for word in KEPT if keep[f"keep_{word}"]}


_COLUMNS = (
    Column("BACKUP", lambda row: row["id"]),
    Column("INSTANCE", lambda row: row["instance"]),
    Column("ENGINE", lambda row: row["engine"], keep=6),
    Column("AGE", lambda row: age(row["time"]), right=True, keep=8),
    Column("CONSISTENCY", lambda row: row["consistency"] or "-", keep=4),
    Column("SIZE", lambda row: format_size(row["size"]), right=True, keep=5),
    Column("ADDED", lambda row: format_size(row["added"]), right=True, keep=3),
    Column("HOST", lambda row: row["host"], keep=2),
)
