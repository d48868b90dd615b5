"""`/v1/backups`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from triune.api import backup_schemas as schemas
from triune.api import pages, views
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, Run, Services, accepted
from triune.api.streams import Open, ThreadStream
from triune.app import Triune
from triune.domain.operation import Operation
from triune.services.backups import CreateRequest, Keep, Place, RestoreRequest

router = APIRouter(prefix="/v1/backups", tags=["backups"])

Repository = Annotated[str, Query(max_length=4096, description="A folder, sftp:… or s3:…; empty: the default")]
PasswordFile = Annotated[str, Query(max_length=4096, description="A file of the host; empty: the default")]

_FILTERS = ("id", "instance", "engine", "host", "consistency")


def _key(row: pages.Row) -> tuple[str, ...]:
    return (str(row["time"]), str(row["id"]))


@router.get("", response_model=schemas.BackupList)
async def list_backups(
    triune: Services,
    run: Run,
    repository: Repository = "",
    password_file: PasswordFile = "",
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
    fields: pages.Fields = None,
    filtered: pages.Filter = None,
) -> Response:
    """All backups in a repository, the oldest first."""
    after = pages.decode_cursor(cursor, 2)
    selection = pages.Selection(fields, filtered, known=schemas.Backup.model_fields, keys=_FILTERS, key="id")

    def work() -> dict[str, object]:
        found = triune.backups.list(triune.backups.place(repository, password_file))
        rows = sorted((views.plain(one) for one in found), key=_key)
        return selection.page((row for row in rows if after is None or _key(row) > after), limit=limit, cursor=_key)

    return Json(await run.wait(work))


@router.post("", status_code=202, responses=ACCEPTED)
async def create_backup(body: schemas.BackupBody, triune: Services, run: Run) -> Response:
    """Back up an instance; the id is in the operation's result. The first one makes the repository."""

    def work() -> Operation:
        return triune.backups.create(CreateRequest(instance=body.instance, place=_place(triune, body)))

    return accepted(await run.run(work))


@router.post("/verify", status_code=202, responses=ACCEPTED)
async def verify_backups(triune: Services, run: Run, body: schemas.RepositoryBody | None = None) -> Response:
    """Read and check every byte; the operation's result names what is damaged."""
    what = body or schemas.RepositoryBody()
    return accepted(await run.run(lambda: triune.backups.verify(_place(triune, what))))


@router.post("/prune", status_code=202, responses=ACCEPTED)
async def prune_backups(body: schemas.PruneBody, triune: Services, run: Run) -> Response:
    """Let go of backups that the rule does not keep, and free their space."""

    def work() -> Operation:
        keep = Keep(**body.keep.model_dump())
        return triune.backups.prune(_place(triune, body), keep, body.instance, dry_run=body.dry_run)

    return accepted(await run.run(work))


@router.post("/{backup}/restore", status_code=202, responses=ACCEPTED)
async def restore_backup(backup: str, body: schemas.BackupRestoreBody, triune: Services, run: Run) -> Response:
    """Make a new instance of it. An instance's name stands for its newest backup."""

    def work() -> Operation:
        request = RestoreRequest(
            backup=backup,
            name=body.name,
            place=_place(triune, body),
            start=body.start,
            damaged=body.skip_damaged,
            publish=body.publish,
        )
        return triune.backups.restore(request)

    return accepted(await run.run(work))


@router.post("/{backup}/extract", status_code=202, responses=ACCEPTED)
async def extract_files(backup: str, body: schemas.ExtractBody, triune: Services, run: Run) -> Response:
    """Put files and folders of it into a folder of the host."""

    def work() -> Operation:
        return triune.backups.extract(_place(triune, body), backup, body.paths, body.target)

    return accepted(await run.run(work))


@router.get(
    "/{backup}/content",
    response_class=Response,
    responses={200: {"description": "The file", "content": {"application/octet-stream": {}}}},
)
async def read_file(
    backup: str,
    request: Request,
    triune: Services,
    run: Run,
    path: Annotated[str, Query(max_length=4096, description="Absolute, as inside the instance")],
    repository: Repository = "",
    password_file: PasswordFile = "",
) -> Response:
    """One file of a backup."""
    run.require_stream()
    where = triune.backups.place(repository, password_file)
    located = await run.wait(triune.backups.locate, where, backup, path)
    opened: Open = request.app.state.opened
    return ThreadStream(_Content(triune, where, located), run, opened, "application/octet-stream")


@router.delete("/{backup}", status_code=202, responses=ACCEPTED)
async def remove_backup(
    backup: str, triune: Services, run: Run, repository: Repository = "", password_file: PasswordFile = ""
) -> Response:
    """Remove one, and free what only it needed."""
    return accepted(
        await run.run(lambda: triune.backups.remove(triune.backups.place(repository, password_file), backup))
    )


def _place(triune: Triune, body: schemas.RepositoryBody) -> Place:
    return triune.backups.place(body.repository, body.password_file)


class _Content:
    """A source of a file's pieces."""

    def __init__(self, triune: Triune, where: Place, located: tuple[Any, str]) -> None:
        self._triune = triune
        self._where = where
        self._located = located
        self._stopped = threading.Event()

    def pieces(self) -> Iterator[bytes]:
        """Until its end, or until stopped."""
        with self._triune.backups.content(self._where, *self._located) as chunks:
            for chunk in chunks:
                if self._stopped.is_set():
                    return
                yield chunk

    def stop(self) -> None:
        """Tell it."""
        self._stopped.set()
