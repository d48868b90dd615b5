"""`/v1/templates`: what instances start warm from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import Response

from triune.api import schemas, views
from triune.api.launch import size
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, Run, Services, accepted
from triune.services.instances import WarmRequest

router = APIRouter(prefix="/v1/templates", tags=["templates"])


@router.get("", response_model=schemas.TemplateList)
async def list_templates(triune: Services, run: Run) -> Response:
    """All templates of this host."""
    return Json({"items": [views.template(row) for row in await run.run(triune.warming.list)]})


@router.post("", status_code=202, responses=ACCEPTED)
async def make_template(body: Annotated[schemas.TemplateBody, Body()], triune: Services, run: Run) -> Response:
    """Boot an image once and save it, for instances of this size; does nothing where that is there."""
    request = WarmRequest(
        image=body.image, engine=body.engine, cpus=body.cpus, memory=size(body.memory), settings=body.settings
    )
    return accepted(await run.run(triune.warming.warm, request))


@router.delete("/{image:path}", status_code=204)
async def remove_templates(image: str, triune: Services, run: Run) -> Response:
    """Remove the templates of an image. What started from them stays."""

    def work() -> None:
        triune.images.get(image)
        triune.warming.remove(image)

    await run.run(work)
    return Response(status_code=204)
