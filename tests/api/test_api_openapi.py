"""The OpenAPI document: valid, complete, and what the daemon really answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.house import House
from tests.patience import PATIENCE
from triune.api.app import create_app
from triune.api.schemas import Problem
from triune.domain.errors import KINDS


def document(house: House) -> dict[str, Any]:
    found: dict[str, Any] = house.client.transport.call("GET", "/openapi.json")
    return found


def check(openapi: dict[str, Any], method: str, route: str, status: int, value: object) -> None:
    """Compare a reply with what the document says of it."""
    content = openapi["paths"][route][method]["responses"][str(status)]["content"]["application/json"]
    schema = {**content["schema"], "components": openapi["components"]}
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


def test_every_operation_says_what_it_does_and_how_it_fails(house: House) -> None:
    openapi = document(house)
    assert openapi["openapi"].startswith("3.1")
    for path, item in openapi["paths"].items():
        assert path.startswith("/v1")
        for method, operation in item.items():
            where = f"{method} {path}"
            assert operation["description"], where
            assert operation["operationId"], where
            problem = operation["responses"]["default"]["content"]
            assert list(problem) == ["application/problem+json"], where
            assert any(code.startswith("2") for code in operation["responses"]), where
            assert "422" not in operation["responses"], where


def test_replies_are_what_the_document_says(house: House) -> None:
    openapi = document(house)
    house.launch("web", cpus=1, memory="64MiB", publish=["8080:80"])
    house.launch("vm", "kvm")
    house.launch("app", "docker", env={"A": "b"})
    house.engine("kvm").go_down()
    call = house.client.transport.call
    for route, target in (
        ("/v1", "/v1"),
        ("/v1/host", "/v1/host"),
        ("/v1/instances", "/v1/instances"),
        ("/v1/instances", "/v1/instances?fields=name,state&limit=1"),
        ("/v1/instances/{name}", "/v1/instances/web"),
        ("/v1/instances/{name}", "/v1/instances/app"),
        ("/v1/instances/{name}/stats", "/v1/instances/web/stats"),
        ("/v1/stats", "/v1/stats"),
        ("/v1/images", "/v1/images"),
        ("/v1/images/{name}", "/v1/images/debian/12"),
        ("/v1/images/{name}", "/v1/images/docker:nginx:latest"),
        ("/v1/networks", "/v1/networks"),
        ("/v1/networks/{name}", "/v1/networks/triune0"),
        ("/v1/pools", "/v1/pools"),
        ("/v1/pools/{name}", "/v1/pools/default"),
        ("/v1/volumes", "/v1/volumes"),
        ("/v1/operations", "/v1/operations"),
    ):
        check(openapi, "get", route, 200, call("GET", target))
    house.engine("kvm").come_up()
    for action in ("stop", "start", "pause", "resume", "restart"):
        operation = call("POST", f"/v1/instances/web/{action}")
        check(openapi, "post", f"/v1/instances/{{name}}/{action}", 202, operation)
        ended = call("GET", f"/v1/operations/{operation['id']}/wait")
        check(openapi, "get", "/v1/operations/{operation}/wait", 200, ended)
        check(openapi, "get", "/v1/operations/{operation}", 200, call("GET", f"/v1/operations/{operation['id']}"))


def test_a_problem_is_what_the_document_says(house: House) -> None:
    openapi = document(house)
    schema = {"$ref": "#/components/schemas/Problem", "components": openapi["components"]}
    client = httpx.Client(
        transport=httpx.HTTPTransport(uds=str(house.socket)), base_url="http://triune", timeout=PATIENCE
    )
    for method, path in (("GET", "/v1/instances/none"), ("POST", "/v1/instances"), ("PUT", "/v1"), ("GET", "/x")):
        reply = client.request(method, path)
        jsonschema.Draft202012Validator(schema).validate(reply.json())


def test_the_sdk_reads_what_the_document_says(house: House) -> None:
    """Each key that the SDK's types promise is in the document, and the other way round."""
    from triune.sdk import types

    schemas = document(house)["components"]["schemas"]
    for ours, theirs in (
        (types.InstanceRow, "InstanceRow"),
        (types.InstanceDetail, "InstanceDetail"),
        (types.OperationRow, "Operation"),
        (types.StatsRow, "Stats"),
        (types.ImageRow, "Image"),
        (types.NetworkRow, "Network"),
        (types.PoolRow, "Pool"),
        (types.VolumeRow, "Volume"),
        (types.Step, "Step"),
        (types.ErrorFields, "ErrorFields"),
        (types.InstanceList, "InstanceList"),
    ):
        assert set(ours.__annotations__) == set(schemas[theirs]["properties"]), theirs


# What never ends by itself, waits, or starts work that goes on after the answer.
LEFT_OUT = {
    "/v1/events",
    "/v1/instances/{name}/logs",
    "/v1/operations/{operation}/events",
    "/v1/operations/{operation}/wait",
}
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
_OPENAPI = create_app(SimpleNamespace(store=None, operations=None)).openapi()  # type: ignore[arg-type]
OPERATIONS = [
    f"{method.upper()} {path}" for path, item in _OPENAPI["paths"].items() for method in item if path not in LEFT_OUT
]


@pytest.mark.heavy  # a schema's worth of requests for each
@pytest.mark.parametrize("operation", OPERATIONS)
def test_generated_requests_never_break_it(house: House, operation: str) -> None:
    """Requests made from the document, good and bad: no 500, and what comes is what the document says."""
    house.launch("web")
    method, _, path = operation.partition(" ")
    schema = schemathesis.openapi.from_asgi("/openapi.json", house.server.config.app)

    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def run(case: schemathesis.Case) -> None:
        confine(case, house)
        response = case.call()
        # An engine that can't do what it is asked answers 501, and one that is away 503: both are problems told.
        if response.status_code not in (501, 503):
            case.validate_response(response, checks=CHECKS)

    run()


def confine(case: schemathesis.Case, house: House) -> None:
    """Keep requests that make files where they are told to inside the house: no file systems, no folders elsewhere."""
    if case.path.startswith(("/v1/pools", "/v1/volumes")) and isinstance(case.body, dict):
        case.body.pop("dataset", None)
        for key in {"path"} & set(case.body):
            if isinstance(case.body[key], str):
                case.body[key] = f"{house.settings.data.parent}/generated/{case.body[key].encode().hex()[:40]}"
        if case.body.get("driver") in ("btrfs", "zfs"):
            case.body["driver"] = "dir"


def test_every_resource_is_in_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "API.md").read_text()
    for path in _OPENAPI["paths"]:
        known = path.replace("{operation}", "{id}")
        action = f"`{known.rpartition('/')[2]}`"
        assert known in manual or action in manual, path
    for word in (*Problem.model_fields, *KINDS, "Last-Event-ID", "If-Match", "Idempotency-Key", "triune.v1"):
        assert word in manual, word
