"""`/v1/networks`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from triune.api import pages, schemas, views
from triune.api.replies import Json
from triune.api.routes.common import Run, Services
from triune.app import Triune
from triune.domain.network import Network

router = APIRouter(prefix="/v1/networks", tags=["networks"])

_FILTERS = ("name", "subnet", "domain")


def _view(triune: Triune, network: Network) -> dict[str, object]:
    default = network.name == triune.networks.default
    return views.network(network, default=default, members=sorted(triune.networks.members(network.name)))


@router.get("", response_model=schemas.NetworkList)
async def list_networks(triune: Services, run: Run, query: pages.ByName) -> Response:
    """All networks by name."""
    wanted = query.selection(known=schemas.Network.model_fields, keys=_FILTERS)

    def work() -> dict[str, object]:
        found = sorted(triune.networks.list(), key=lambda network: network.name)
        return wanted.page(found, lambda network: _view(triune, network))

    return Json(await run.run(work))


@router.get("/{name}", response_model=schemas.Network)
async def get_network(name: str, triune: Services, run: Run) -> Response:
    """One network."""
    return Json(await run.run(lambda: _view(triune, triune.networks.get(name))))


@router.post("", status_code=201, responses={201: {"model": schemas.Network}})
async def create_network(body: schemas.NetworkBody, triune: Services, run: Run) -> Response:
    """Make a further network; its bridge has its name."""
    content = await run.run(lambda: _view(triune, triune.networks.create(body.name, body.subnet)))
    return Json(content, status_code=201, headers={"Location": f"/v1/networks/{body.name}"})


@router.delete("/{name}", status_code=204)
async def remove_network(
    name: str,
    triune: Services,
    run: Run,
    force: Annotated[bool, Query(description="Also if instances use it")] = False,
) -> Response:
    """Take it down and forget it."""
    await run.run(triune.networks.delete, name, force=force)
    return Response(status_code=204)
