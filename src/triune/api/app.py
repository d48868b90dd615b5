"""The application: routes, errors and the OpenAPI document, over the wired services."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from triune import __version__
from triune.api import errors, schemas
from triune.api.body import BodyLimit
from triune.api.calls import Calls
from triune.api.idempotency import Keys
from triune.api.routes import (
    audits,
    backups,
    events,
    host,
    images,
    inside,
    instances,
    machines,
    networks,
    operations,
    pools,
    schedules,
    snapshots,
    templates,
    volumes,
)
from triune.api.streams import Open
from triune.app import Triune

_SUMMARY = "KVM virtual machines, LXC system containers and Docker application containers as one"


def create_app(triune: Triune) -> FastAPI:
    """The API over these services, which the caller has started."""
    app = FastAPI(
        title="Triune",
        summary=_SUMMARY,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        license_info={"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
    )
    app.state.triune = triune
    app.state.calls = Calls()
    app.state.opened = Open()
    app.state.keys = Keys(triune.store, triune.operations)
    for module in (
        *(host, instances, machines, snapshots, inside, images, templates, networks, pools, volumes),
        *(backups, schedules, audits, operations, events),
    ):
        app.include_router(module.router)
    errors.install(app)
    app.add_middleware(BodyLimit)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with problem documents as the errors of every operation."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, license_info=app.license_info
    )
    known = document.setdefault("components", {}).setdefault("schemas", {})
    known["Problem"] = schemas.Problem.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        known.pop(unused, None)
    problem = {
        "description": "What went wrong (RFC 9457)",
        "content": {errors.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
    app.openapi_schema = document
    return document
