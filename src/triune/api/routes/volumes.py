"""`/v1/volumes`, and volumes of instances."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from triune.api import pages, views
from triune.api import storage_schemas as schemas
from triune.api.launch import size
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, Run, Services, accepted
from triune.api.routes.images import receive
from triune.domain.errors import Invalid
from triune.services.storage import TransferOptions, VolumeOptions

router = APIRouter(prefix="/v1", tags=["storage"])

_FILTERS = ("name", "pool", "kind", "format")


@router.get("/volumes", response_model=schemas.VolumeList)
async def list_volumes(triune: Services, run: Run, query: pages.ByName) -> Response:
    """All volumes by name."""
    wanted = query.selection(known=schemas.Volume.model_fields, keys=_FILTERS)
    return Json(wanted.page(await run.run(triune.storage.volumes.list), views.volume))


@router.get("/volumes/{name}", response_model=schemas.Volume)
async def get_volume(name: str, triune: Services, run: Run) -> Response:
    """One volume."""
    return Json(views.volume(await run.run(triune.storage.volumes.get, name)))


@router.post("/volumes", status_code=202, responses=ACCEPTED)
async def make_volume(body: Annotated[schemas.VolumeMaking, Body()], triune: Services, run: Run) -> Response:
    """Make an empty volume, or import a file or folder of the daemon's host."""
    if isinstance(body, schemas.VolumeImportBody):
        work = triune.storage.transfers.import_from
        return accepted(await run.run(work, body.name, _path(body.path), _transfer(body)))
    options = VolumeOptions(pool=body.pool, kind=body.kind, size=size(body.size), format=body.format)
    return accepted(await run.run(triune.storage.volumes.create, body.name, options))


@router.put("/volumes", status_code=202, responses=ACCEPTED)
async def upload_volume(
    request: Request, triune: Services, run: Run, query: Annotated[schemas.VolumeUpload, Query()]
) -> Response:
    """Make a volume of the request's body, a file of any length."""
    await run.run(triune.storage.volumes.checked, query.name, VolumeOptions(pool=query.pool))
    path = triune.settings.data / "uploads" / secrets.token_hex(16)
    try:
        await receive(request, path, run)
        operation = await run.run(triune.storage.transfers.import_from, query.name, path, _transfer(query), path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return accepted(operation)


@router.post("/volumes/{name}/export", status_code=202, responses=ACCEPTED)
async def export_volume(name: str, body: schemas.ExportBody, triune: Services, run: Run) -> Response:
    """Write it to a new file of the daemon's host: a folder as tar, a disk as it is or in another format."""
    return accepted(await run.run(triune.storage.transfers.export, name, _path(body.path), body.format))


def _path(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise Invalid("bad_path", f"{text!r} is not an absolute path", hint="Write it like /srv/data.tar.")
    return Path(text)


def _transfer(given: schemas.VolumeImportFields) -> TransferOptions:
    return TransferOptions(pool=given.pool, format=given.format, size=size(given.size), max_size=size(given.max_size))


@router.delete("/volumes/{name}", status_code=202, responses=ACCEPTED)
async def remove_volume(name: str, triune: Services, run: Run) -> Response:
    """Remove a volume that no instance uses."""
    return accepted(await run.run(triune.storage.volumes.remove, name))


@router.put("/instances/{name}/volumes/{volume}", status_code=202, responses=ACCEPTED)
async def attach_volume(name: str, volume: str, body: schemas.AttachBody, triune: Services, run: Run) -> Response:
    """Give an instance a volume, now (where its engine can) and for every start."""
    work = triune.instances.attachments.attach
    return accepted(await run.run(work, name, volume, body.target, read_only=body.read_only))


@router.delete("/instances/{name}/volumes/{volume}", status_code=202, responses=ACCEPTED)
async def detach_volume(name: str, volume: str, triune: Services, run: Run) -> Response:
    """Take a volume away from an instance."""
    return accepted(await run.run(triune.instances.attachments.detach, name, volume))


@router.post("/volumes/{name}/resize", status_code=202, responses=ACCEPTED)
async def resize_volume(name: str, body: schemas.ResizeBody, triune: Services, run: Run) -> Response:
    """Grow it, or shrink it where it is sure that what is in it fits."""
    wanted = size(body.size)
    if wanted is None:
        raise Invalid("bad_size", "a size is needed", hint="Write it like 10GiB.")
    return accepted(await run.run(triune.storage.volumes.resize, name, wanted))


@router.post("/volumes/{name}/convert", status_code=202, responses=ACCEPTED)
async def convert_volume(name: str, body: schemas.ConvertBody, triune: Services, run: Run) -> Response:
    """Give a disk another format."""
    return accepted(await run.run(triune.storage.volumes.convert, name, body.format))
