"""A machine on a rescued volume, as the origin of an import."""

from __future__ import annotations

from collections.abc import Sequence

from triune.domain.errors import Conflict, NotFound, TriuneError
from triune.services.machines.origin import Origin, read_origin
from triune.services.rescue.folders import on_volume
from triune.services.rescue.volume import Volume


def origin(volumes: Sequence[Volume], path: str) -> Origin:
    """The machine whose description is at `path` of one of the volumes, all its files read from there.

    Raises NotFound("no_such_file"), Conflict where several have that path, and what reading the description raises.
    """
    found = []
    missed: TriuneError | None = None
    for volume in volumes:
        try:
            volume.find(path)
        except NotFound as error:
            missed = missed or error
        else:
            found.append(volume)
    if not found:
        raise missed or NotFound(
            "no_such_file", f"there is no {path}", hint="Write it as it is on the volume, without a leading slash."
        )
    if len(found) > 1:
        raise Conflict(
            "several_files", f"{len(found)} volumes have {path}", hint="Name only the sources of the volume you mean."
        )
    return read_origin(*on_volume(found[0], path))
