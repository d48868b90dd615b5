"""`/v1/images`: what instances start from.

Names hold slashes and colons (`debian/12`, `docker:library/nginx:1.27`), so a name is all the rest of the path, and
nothing comes after it.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from triune.api import pages, schemas, views
from triune.api.calls import Calls
from triune.api.launch import size
from triune.api.replies import Json
from triune.api.routes.common import ACCEPTED, Run, Services, accepted
from triune.app import Triune
from triune.domain.errors import Failed, Invalid
from triune.domain.image import Image
from triune.domain.names import image_name
from triune.domain.operation import Operation
from triune.engines.base import Credentials
from triune.services.images.options import BuildOptions, ImportOptions
from triune.services.operations import Task

router = APIRouter(prefix="/v1/images", tags=["images"])

_BUFFER = 4 * 2**20
_FILTERS = ("name", "digest", "source")


@router.get("", response_model=schemas.ImageList)
async def list_images(triune: Services, run: Run, query: pages.ByName) -> Response:
    """All images by name."""
    wanted = query.selection(known=schemas.Image.model_fields, keys=_FILTERS)
    found = sorted(await run.run(triune.images.list), key=lambda image: image.name)
    return Json(wanted.page(found, views.image))


@router.post("", status_code=202, responses=ACCEPTED)
async def make_image(body: Annotated[schemas.ImageBody, Body()], triune: Services, run: Run) -> Response:
    """Build an image, pull one from a registry, or import a file of the host."""
    if isinstance(body, schemas.ImageBuildBody):
        operation = await run.run(_build, triune, body)
    elif isinstance(body, schemas.ImagePullBody):
        operation = await run.run(_pull, triune, body)
    else:
        path = Path(body.path)
        if not path.is_absolute() or "\0" in body.path:
            raise Invalid("bad_path", f"{body.path!r} is not an absolute path", hint="Write it like /srv/disk.qcow2.")
        operation = await run.run(_import, triune, body.name, path, _import_options(body), None)
    return accepted(operation)


@router.put("", status_code=202, responses=ACCEPTED)
async def upload_image(
    request: Request, triune: Services, run: Run, query: Annotated[schemas.ImageUpload, Query()]
) -> Response:
    """Import the request's body, a file of any length."""
    image_name(query.name)  # before gigabytes were sent for nothing
    options = _import_options(query)
    folder = triune.settings.data / "uploads"
    path = folder / secrets.token_hex(16)
    try:
        await receive(request, path, run)
        operation = await run.run(_import, triune, query.name, path, options, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return accepted(operation)


@router.get("/{name:path}", response_model=schemas.Image)
async def get_image(name: str, triune: Services, run: Run) -> Response:
    """One image with its forms."""
    return Json(views.image(await run.run(triune.images.get, name)))


@router.delete("/{name:path}", status_code=202, responses=ACCEPTED)
async def remove_image(name: str, triune: Services, run: Run) -> Response:
    """Remove it; the operation fails while an instance uses it."""

    def work(task: Task) -> None:
        task.step("remove", f"removing {name}")
        triune.images.remove(name)

    def submit() -> Operation:
        triune.images.get(name)
        return _submit(triune, "image-remove", name, work)

    return accepted(await run.run(submit))


def _build(triune: Triune, body: schemas.ImageBuildBody) -> Operation:
    image_name(body.name)
    given: dict[str, Any] = {} if body.size is None else {"size": size(body.size)}
    options = BuildOptions(
        packages=tuple(body.packages),
        hostname_from_instance=body.hostname_from_instance,
        kernel=body.kernel,
        mirror=body.mirror,
        sources=Path(body.sources) if body.sources else None,
        rebuild=body.rebuild,
        release=body.release,
        disabled=tuple(body.disabled),
        **given,
    )
    return _submit(triune, "image-build", body.name, lambda task: triune.images.build(body.name, options, task))


def _pull(triune: Triune, body: schemas.ImagePullBody) -> Operation:
    given = body.credentials
    credentials = Credentials(username=given.username, password=given.password) if given else None
    return _submit(triune, "image-pull", body.name, lambda task: triune.images.pull(body.name, credentials, task))


def _import(triune: Triune, name: str, path: Path, options: ImportOptions, upload: Path | None) -> Operation:
    image_name(name)

    def work(task: Task) -> Image:
        try:
            return triune.images.import_file(path, name, options, task)
        finally:
            if upload is not None:
                upload.unlink(missing_ok=True)

    return _submit(triune, "image-import", name, work)


def _import_options(given: schemas.ImportFields) -> ImportOptions:
    limit = size(given.max_size)
    limited: dict[str, Any] = {} if limit is None else {"max_size": limit}
    return ImportOptions(
        format=given.format,
        sha256=given.sha256,
        firmware=given.firmware,
        agent=given.agent,
        cloud_init=given.cloud_init,
        replace=given.replace,
        **limited,
    )


def _submit(triune: Triune, kind: str, name: str, work: Callable[[Task], Image | None]) -> Operation:
    def told(task: Task) -> dict[str, Any] | None:
        image = work(task)
        return None if image is None else {"name": image.name, "digest": image.digest, "size": image.size}

    resource = f"images/{name}"
    return triune.operations.submit(kind, resource, told, locks=[resource])


async def receive(request: Request, path: Path, run: Calls) -> None:
    """Write the body to a file, some MiB at a time. Raises Failed("no_space")."""

    def begin() -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)

    def append(data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    try:
        await run.run(begin)
        held = bytearray()
        async for piece in request.stream():
            held += piece
            if len(held) >= _BUFFER:
                await run.run(append, bytes(held))
                held.clear()
        await run.run(append, bytes(held))
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise Failed(
            "no_space" if full else "upload_failed",
            f"the upload could not be written to {path.parent}: {error.strerror}",
            hint="Free some space there." if full else "See the daemon's log.",
        ) from None


def forget_uploads(data: Path) -> None:
    """Remove what uploads left that a crash cut off."""
    with contextlib.suppress(FileNotFoundError):
        for path in (data / "uploads").iterdir():
            path.unlink(missing_ok=True)
