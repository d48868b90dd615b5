"""The key of repositories whose user gave none: a file that only root may read, made once."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from triune.domain.errors import Denied, Invalid
from triune.domain.names import single_line


def ensure(path: Path) -> bool:
    """Make the file where it is not there; returns whether it was made. Raises Denied.

    It is whole as soon as anybody sees it, and one that is there is never replaced: backups depend on it.
    """
    if path.exists():
        return False
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, f"{secrets.token_urlsafe(32)}\n".encode())
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(fresh, path)
        except FileExistsError:
            return False
        finally:
            fresh.unlink()
    except OSError as error:
        raise Denied(
            "key_denied",
            f"the key of the backups can't be written to {path}: {error.strerror}",
            hint="Name another file in triune.toml: [backup] password_file, or give --password-file.",
        ) from None
    return True


def environment(path: Path) -> dict[str, str]:
    """The lines KEY=VALUE of a file; comments and empty lines are skipped. No file: nothing. Raises Invalid, Denied."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Denied(
            "environment_denied", f"{path} can't be read: {error}", hint="It has lines KEY=VALUE, for root only."
        ) from None
    values = {}
    for line in text.splitlines():
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise Invalid("bad_environment", f"a line of {path} is not KEY=VALUE", hint="Mend it there.")
        values[key] = single_line(value.strip().strip("\"'"), f"{key} in {path}")
    return values
