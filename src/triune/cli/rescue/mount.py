"""`rescue mount` and `rescue umount`: a volume as a folder here."""

from __future__ import annotations

from triune.cli.mount import umount

__all__ = ["umount"]
