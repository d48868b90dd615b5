"""`/v1/instances`: the inventory, and what can be done with an instance."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from triune.api import pages, schemas, views
from triune.api.idempotency import Keys
from triune.api.launch import launch_request
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, IfMatch, Run, Services, accepted, require_match
from triune.app import Triune
from triune.domain.errors import Conflict, Invalid, Unsupported
from triune.domain.instance import State
from triune.domain.limits import parse
from triune.domain.operation import Operation

router = APIRouter(prefix="/v1", tags=["instances"])

_FILTERS = ("engine", "state", "origin", "image", "name")


@router.get("/instances", response_model=schemas.InstanceList)
async def list_instances(
    triune: Services,
    run: Run,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
    fields: pages.Fields = None,
    filtered: pages.Filter = None,
) -> Response:
    """Every instance of every engine by name, and the engines that could not be read."""
    after = pages.decode_cursor(cursor, 2)
    selection = pages.Selection(fields, filtered, known=views.ROW_FIELDS, keys=_FILTERS)
    listing = await run.run(triune.instances.list)
    found = (views.row(one) for one in listing.instances if after is None or (one.name, one.engine) > after)
    page = selection.page(found, limit=limit, cursor=lambda row: (row["name"], row["engine"]))
    return Json({**page, "unreachable": [views.problem(problem) for problem in listing.problems]})


@router.post("/instances", status_code=202, responses=ACCEPTED)
async def launch_instance(
    body: schemas.LaunchBody,
    http: Request,
    triune: Services,
    run: Run,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Create and start an instance. Repeating it with the same Idempotency-Key within a day does nothing more."""
    request = launch_request(body)
    keys: Keys = http.app.state.keys

    def work() -> tuple[Operation, bool]:
        if idempotency_key is None:
            return triune.instances.launch(request), False
        return keys.once(idempotency_key, body.model_dump_json(), lambda: triune.instances.launch(request))

    operation, replayed = await run.run(work)
    reply = accepted(operation)
    if replayed:
        reply.headers["Idempotency-Replayed"] = "true"
    return reply


@router.get("/instances/{name}", response_model=schemas.InstanceDetail)
async def get_instance(name: str, triune: Services, run: Run) -> Response:
    """Everything known of one instance. The ETag is of its configuration, not of what it is doing."""

    def work() -> tuple[dict[str, object], str]:
        found = triune.instances.get(name)
        published = [str(port) for port in triune.networks.published().get(name, ())]
        intent = triune.instances.intent(name) or {}
        limits = triune.instances.limits(name)
        content = views.detail(found, limits, restarts=intent.get("restarts", 0), published=published)
        return content, views.etag(found, limits, intent)

    content, tag = await run.run(work)
    return Json(content, headers={"ETag": tag})


@router.patch("/instances/{name}", status_code=202, responses=ACCEPTED)
async def change_instance(
    name: str, body: schemas.PatchBody, triune: Services, run: Run, if_match: IfMatch = None
) -> Response:
    """Merge a change into the instance: another name, or limits. Limits that are not named stay as they are."""
    if body.model_extra:
        raise Unsupported(
            "setting_not_changeable",
            f"{', '.join(sorted(body.model_extra))[:200]} of an instance can't be changed after its launch yet",
            hint=f"Launch another one with the values you want, and remove {name}.",
        )
    new, changes = body.name, None if body.limits is None else parse(body.limits)
    if (new is None) == (changes is None):
        raise Invalid(
            "nothing_to_change" if new is None else "two_changes",
            "the request changes nothing" if new is None else "the name and limits are changed one after the other",
            hint='Send {"name": "new-name"} or {"limits": {"memory": "512MiB"}}.',
        )

    def work() -> Operation:
        require_match(triune, name, if_match)
        if new is not None:
            return triune.instances.rename(name, new)
        return triune.instances.set_limits(name, changes or {})

    return accepted(await run.run(work))


@router.delete("/instances/{name}", status_code=202, responses=ACCEPTED)
async def remove_instance(
    name: str,
    triune: Services,
    run: Run,
    force: Annotated[bool, Query(description="Also if it runs")] = False,
    adopted: Annotated[bool, Query(description="Also if Triune did not make it")] = False,
    if_match: IfMatch = None,
) -> Response:
    """Remove it with its disks."""

    def work() -> Operation:
        require_match(triune, name, if_match)
        return triune.instances.remove(name, force=force, adopted=adopted)

    return accepted(await run.run(work))


async def _act(triune: Triune, run: Run, name: str, if_match: str | None, action: Callable[[], Operation]) -> Response:
    def work() -> Operation:
        require_match(triune, name, if_match)
        return action()

    return accepted(await run.run(work))


@router.post("/instances/{name}/start", status_code=202, responses=ACCEPTED)
async def start_instance(
    name: str, triune: Services, run: Run, body: schemas.StartBody | None = None, if_match: IfMatch = None
) -> Response:
    """Start it; one that runs already is left alone."""
    how = body or schemas.StartBody()
    return await _act(
        triune, run, name, if_match, lambda: triune.instances.start(name, wait=how.wait, timeout=how.timeout)
    )


@router.post("/instances/{name}/stop", status_code=202, responses=ACCEPTED)
async def stop_instance(
    name: str, triune: Services, run: Run, body: schemas.StopBody | None = None, if_match: IfMatch = None
) -> Response:
    """Ask it to shut down; after `timeout` seconds kill it if `force`, else the operation fails."""
    how = body or schemas.StopBody()
    return await _act(
        triune, run, name, if_match, lambda: triune.instances.stop(name, timeout=how.timeout, force=how.force)
    )


@router.post("/instances/{name}/restart", status_code=202, responses=ACCEPTED)
async def restart_instance(
    name: str, triune: Services, run: Run, body: schemas.StopBody | None = None, if_match: IfMatch = None
) -> Response:
    """Stop it as `stop` does, and start it."""
    how = body or schemas.StopBody()
    return await _act(
        triune, run, name, if_match, lambda: triune.instances.restart(name, timeout=how.timeout, force=how.force)
    )


@router.post("/instances/{name}/pause", status_code=202, responses=ACCEPTED)
async def pause_instance(name: str, triune: Services, run: Run, if_match: IfMatch = None) -> Response:
    """Freeze all its processes."""
    return await _act(triune, run, name, if_match, lambda: triune.instances.pause(name))


@router.post("/instances/{name}/resume", status_code=202, responses=ACCEPTED)
async def resume_instance(name: str, triune: Services, run: Run, if_match: IfMatch = None) -> Response:
    """Let them go on."""
    return await _act(triune, run, name, if_match, lambda: triune.instances.resume(name))


@router.post("/instances/{name}/rename", status_code=202, responses=ACCEPTED)
async def rename_instance(
    name: str, body: schemas.RenameBody, triune: Services, run: Run, if_match: IfMatch = None
) -> Response:
    """Give it another name, in its engine and on the network."""
    return await _act(triune, run, name, if_match, lambda: triune.instances.rename(name, body.name))


@router.get("/instances/{name}/stats", response_model=schemas.Stats)
async def instance_stats(name: str, triune: Services, run: Run) -> Response:
    """Its counters since it started."""

    def work() -> dict[str, object]:
        found = next((counted for counted in triune.instances.stats() if counted.name == name), None)
        if found is not None:
            return views.stats(found)
        state = triune.instances.get(name).instance.state
        if state in (State.RUNNING, State.PAUSED):
            raise Conflict(
                "no_stats", f"there are no counters of {name} at this moment", hint="Try again; it may just start."
            )
        raise Conflict(
            "instance_not_running", f"{name} is {state.value}: it has no counters", hint=f"Run: triune start {name}"
        )

    return Json(await run.run(work))


@router.get("/stats", response_model=schemas.StatsList)
async def all_stats(triune: Services, run: Run) -> Response:
    """Counters of every running instance."""
    items = [views.stats(found) for found in await run.run(triune.instances.stats)]
    return Json({"items": items, "time": datetime.now(UTC).isoformat()})
