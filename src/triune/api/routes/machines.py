"""`/v1/machines`: machines that were made elsewhere become instances."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from triune.api import machine_schemas as schemas
from triune.api.routes.common import ACCEPTED, Run, Services, accepted
from triune.domain.machine import Machine, MachineCard, MachineDisk
from triune.domain.operation import Operation
from triune.services.machines import DiskSource, ImportRequest

router = APIRouter(prefix="/v1/machines", tags=["machines"])


@router.post("", status_code=202, responses=ACCEPTED)
async def import_machine(body: schemas.MachineBody, triune: Services, run: Run) -> Response:
    """Make an instance of a description; its disks are read over NBD while the operation runs. Its result has `disks`
    (with sums of their content), `up`, `sign`, `sentence`, `notes`, and `drivers` (`tool`, `seconds`,
    `warnings`) where some were put into it."""

    def work() -> Operation:
        return triune.machines.import_machine(_request(body))

    return accepted(await run.run(work))


def _request(body: schemas.MachineBody) -> ImportRequest:
    machine = Machine(
        name=body.name,
        guest=body.guest,
        firmware=body.firmware,
        secure_boot=body.secure_boot,
        cpus=body.cpus,
        cores=body.cores,
        memory=body.memory,
        disks=tuple(
            MachineDisk(slot=disk.slot, file=disk.file, bus=disk.bus, controller=disk.controller, size=disk.size)
            for disk in body.disks
        ),
        cards=tuple(MachineCard(**card.model_dump()) for card in body.cards),
        display=body.display,
        serials=body.serials,
        tpm=body.tpm,
        clock=body.clock,
        uuid=body.uuid,
    )
    return ImportRequest(
        name=body.name,
        machine=machine,
        disks={disk.slot: _source(disk) for disk in body.disks},
        engine=body.engine,
        inject=body.inject_drivers,
        verify=body.verify,
        start=body.start,
        timeout=body.timeout,
        source=body.source,
    )


def _source(disk: schemas.MachineDiskBody) -> DiskSource:
    return DiskSource(
        socket=Path(disk.socket),
        export=disk.export,
        path=None if disk.path is None else Path(disk.path),
        format=disk.format,
        offset=disk.offset,
        length=disk.length,
    )
