"""`/v1/pools`."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from triune.api import pages, views
from triune.api import storage_schemas as schemas
from triune.api.launch import size
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, Run, Services, accepted
from triune.domain.errors import Invalid
from triune.services.storage import PoolOptions

router = APIRouter(prefix="/v1/pools", tags=["storage"])

_FILTERS = ("name", "driver", "available")


@router.get("", response_model=schemas.PoolList)
async def list_pools(triune: Services, run: Run, query: pages.ByName) -> Response:
    """All pools by name."""
    wanted = query.selection(known=schemas.Pool.model_fields, keys=_FILTERS)
    return Json(wanted.page(await run.run(triune.storage.pools.list), views.pool))


@router.get("/{name}", response_model=schemas.Pool)
async def get_pool(name: str, triune: Services, run: Run) -> Response:
    """One pool."""
    return Json(views.pool(await run.run(triune.storage.pools.get, name)))


@router.post("", status_code=202, responses=ACCEPTED)
async def create_pool(body: schemas.PoolBody, triune: Services, run: Run) -> Response:
    """Make a pool: a folder, a btrfs in a folder or in a file of its own, or a dataset of ZFS."""
    if body.path is not None and (not body.path.startswith("/") or "\0" in body.path):
        raise Invalid("bad_path", f"{body.path!r} is not an absolute path", hint="Write it like /srv/pool.")
    options = PoolOptions(
        driver=body.driver,
        path=None if body.path is None else Path(body.path),
        size=size(body.size),
        dataset=body.dataset,
    )
    return accepted(await run.run(triune.storage.pools.create, body.name, options))


@router.delete("/{name}", status_code=202, responses=ACCEPTED)
async def remove_pool(name: str, triune: Services, run: Run) -> Response:
    """Remove a pool that nothing uses."""
    return accepted(await run.run(triune.storage.pools.remove, name))
