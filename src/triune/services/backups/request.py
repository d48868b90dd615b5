"""What can be asked of backups, and what the configuration says of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from triune.domain.errors import Invalid
from triune.domain.names import single_line

_REMOTE = ("sftp:", "s3:")
_HINT = "Give a folder (--repo /srv/backups), sftp:USER@HOST:/folder, or s3:https://HOST/BUCKET."
_BACKUP = re.compile(r"[0-9a-f]{4,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSettings:
    """The table `backup` of the configuration.

    `repository` is where backups go when a request names no other. `password_file` holds the repositories' key in its
    first line; it is made, readable by root only, where it is not there. `environment_file` has lines KEY=VALUE for
    the repository's program, like AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. `at_once` backups run side by side.
    """

    repository: str = ""
    password_file: Path = Path("/etc/triune/backup.key")
    environment_file: Path = Path("/etc/triune/backup.env")
    at_once: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A repository and its key: a folder's absolute path, `sftp:…` or `s3:…`. `made`: the key file is ours to make."""

    address: str
    password_file: Path
    made: bool = False

    @property
    def folder(self) -> Path | None:
        """The folder of this host, or None."""
        return None if self.address.startswith(_REMOTE) else Path(self.address)


def place(address: str, password_file: str, settings: BackupSettings) -> Place:
    """The repository of a request, with the configuration's defaults. Raises Invalid."""
    address = single_line(address or settings.repository, "the repository")
    if not address:
        raise Invalid("no_repository", "no backup repository is named", hint=_HINT + " Or set it in triune.toml.")
    if not address.startswith(("/", *_REMOTE)):
        raise Invalid("bad_repository", f"{address!r} is no place for a repository", hint=_HINT)
    if not password_file:
        return Place(address=address, password_file=settings.password_file, made=True)
    single_line(password_file, "the password file")
    if not password_file.startswith("/") or not Path(password_file).is_file():
        raise Invalid(
            "bad_password_file",
            f"{password_file!r} is not the absolute path of a file of this host",
            hint="Write the key into a file that only root may read, and name that.",
        )
    return Place(address=address, password_file=Path(password_file))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What a pruning keeps of each instance: the newest `last`, and the newest of so many hours, days, weeks, months
    and years that have one."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def words(self) -> list[str]:
        """As options of the repository's program. Raises Invalid where nothing would be kept."""
        counts = {field.name: getattr(self, field.name) for field in fields(self)}
        if any(count < 0 for count in counts.values()):
            raise Invalid("bad_keep", "a number of backups to keep is below zero", hint="Use 1 or more.")
        if not any(counts.values()):
            raise Invalid(
                "keep_nothing",
                "nothing is said of what to keep, so all backups would go",
                hint="Say it with --keep-last, --keep-daily, --keep-weekly, --keep-monthly or --keep-yearly.",
            )
        return [word for name, count in counts.items() if count for word in (f"--keep-{name}", str(count))]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """One instance's backup; where `keep` is given, its older ones that it lets go are removed afterwards."""

    instance: str
    place: Place
    keep: Keep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """A backup (its id, or an instance's name for its newest) as a new instance called `name`.

    `damaged`: what the repository can't give any more is left out, and named. `publish`: publish the ports it had.
    """

    backup: str
    name: str
    place: Place
    start: bool = False
    damaged: bool = False
    publish: bool = True


def parse_keep(given: Mapping[str, int]) -> Keep | None:
    """A rule of words and numbers; none at all is None. Raises Invalid."""
    known = {field.name for field in fields(Keep)}
    for word in given:
        if word not in known:
            raise Invalid("bad_keep", f"backups are not kept by {word!r}", hint=f"Use {', '.join(sorted(known))}.")
    if not given:
        return None
    keep = Keep(**given)
    keep.words()
    return keep


def is_id(text: str) -> bool:
    """Whether this may be a backup's id or its beginning."""
    return bool(_BACKUP.fullmatch(text))
