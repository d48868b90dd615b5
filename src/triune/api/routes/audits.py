"""`/v1/audits`: how strongly instances are isolated."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from triune.api import audit_schemas as schemas
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, Run, Services, accepted
from triune.domain.operation import Operation
from triune.services.audit import AuditRequest
from triune.services.audit.waivers import parse

router = APIRouter(prefix="/v1/audits", tags=["audits"])


@router.post("", status_code=202, responses=ACCEPTED)
async def audit(body: schemas.AuditBody, triune: Services, run: Run) -> Response:
    """Look at instances, and try from inside what they can do. The operation's result has `report`, the
    path of the report, and its `summary`."""

    def work() -> Operation:
        waivers = parse([one.model_dump() for one in body.waivers], "the request")
        return triune.audits.audit(AuditRequest(names=tuple(body.instances), probe=body.probe, waivers=waivers))

    return accepted(await run.run(work))


@router.get("/schema", response_model=dict)
async def schema() -> Response:
    """The JSON Schema of an audit's report."""
    return Json(schemas.AuditReport.model_json_schema())


@router.get("/{operation}", response_model=schemas.AuditReport)
async def report(operation: str, triune: Services, run: Run) -> Response:
    """The report of an audit, by the id of its operation; the newest 20 are kept."""
    return Response(await run.run(triune.audits.reports.get, operation), media_type="application/json")
