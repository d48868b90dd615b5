"""What requests carry (checked), and what replies look like (described; `views` makes them, tests compare)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, create_model, model_validator

from triune.domain.instance import Origin, State, WaitFor
from triune.domain.operation import OperationState

Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Size = Annotated[
    Annotated[int, Field(ge=0, le=2**60)] | Annotated[str, Field(max_length=40)],
    Field(description="Bytes, or text like 512MiB"),
]
Seconds = Annotated[float, Field(ge=0, le=86400)]
Limit = Annotated[StrictInt, Field(ge=0, le=2**60)] | Annotated[StrictFloat, Field(ge=0, le=2**60)] | Text | None
LimitsBody = Annotated[
    dict[str, Limit],
    Field(max_length=64, description="By key, like cpus, memory, io.read; text like 50MiB/s; null: no limit"),
]


class Body(BaseModel):
    """A request's body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def unicode(cls, data: object) -> object:
        """JSON can escape half of a surrogate pair, which no file, database or command line can hold."""
        try:
            json.dumps(data, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it is not valid Unicode") from None
        return data


class LaunchBody(Body):
    """What to launch."""

    name: Name
    image: Name
    engine: Annotated[str, Field(max_length=40, description="kvm, lxc, docker, rootless or auto")] = "auto"
    cpus: Annotated[float | None, Field(ge=0.01, le=4096)] = None
    memory: Size | None = None
    disk: Size | None = None
    network: Annotated[
        str | None, Field(max_length=63, description="null: none; empty: the default one; host: the host's own")
    ] = ""
    publish: Annotated[list[Text], Field(max_length=256, description="[IP:]HOST:GUEST[/udp]")] = []
    volumes: Annotated[list[Text], Field(max_length=256, description="SOURCE:/path[:ro]; a disk: its name")] = []
    pool: Annotated[str | None, Field(max_length=63, description="Where its root goes; null: the engine's place")] = (
        None
    )
    env: Annotated[dict[str, str], Field(max_length=1024)] = {}
    command: Annotated[list[str], Field(max_length=1024)] = []
    settings: Annotated[dict[str, str], Field(max_length=256, description="Of the engine; limits too")] = {}
    limits: LimitsBody = {}
    user_data: Annotated[str | None, Field(max_length=2**20, description="cloud-init's user data")] = None
    wait: WaitFor = WaitFor.READY
    timeout: Annotated[Seconds, Field(description="For becoming ready")] = 180.0
    start: bool = True
    cold: Annotated[bool, Field(description="Boot it, even where a template is ready")] = False
    profile: Annotated[str, Field(max_length=40, description="hardened, or empty: as the settings say")] = ""


class TemplateBody(Body):
    """Which image to keep warm, and for instances of which size."""

    image: Name
    engine: Annotated[str, Field(max_length=40, description="empty: the first that can")] = ""
    cpus: Annotated[float | None, Field(ge=0.01, le=4096)] = None
    memory: Size | None = None
    settings: Annotated[dict[str, str], Field(max_length=256)] = {}


class StartBody(Body):
    """Until when the operation goes on; `none` is the same as `running` here."""

    wait: WaitFor = WaitFor.RUNNING
    timeout: Annotated[Seconds, Field(description="For becoming ready")] = 180.0


class StopBody(Body):
    """How to stop: after `timeout` seconds kill it if `force`, else fail."""

    timeout: Seconds = 30.0
    force: bool = False


class RenameBody(Body):
    """The new name."""

    name: Name


class PatchBody(BaseModel):
    """What to change: the name, or some of the limits; those that are not named stay."""

    model_config = ConfigDict(extra="allow")

    name: Name | None = None
    limits: LimitsBody | None = None


class CredentialsBody(Body):
    """For one registry; never stored."""

    username: Text
    password: Text


class ImageBuildBody(Body):
    """Build an image from Debian's packages; see services.images BuildOptions."""

    source: Literal["build"]
    name: Name
    packages: Annotated[list[Text], Field(max_length=500)] = []
    size: Annotated[Size | None, Field(description="Of the disk")] = None
    hostname_from_instance: bool = True
    kernel: Annotated[str, Field(max_length=20, description="cloud or generic")] = "cloud"
    mirror: Annotated[str | None, Field(max_length=4096)] = None
    sources: Annotated[str | None, Field(max_length=4096, description="A file of the host, for apt")] = None
    rebuild: bool = False
    release: Annotated[str, Field(max_length=255, description="What is built, where the name is another")] = ""
    disabled: Annotated[list[Text], Field(max_length=500, description="Units that are not started at boot")] = []


class ImagePullBody(Body):
    """Pull an OCI image from its registry."""

    source: Literal["pull"]
    name: Annotated[Name, Field(description="docker:NAME[:TAG]")]
    credentials: CredentialsBody | None = None


class ImportFields(Body):
    """How to import a file; see services.images ImportOptions."""

    format: Annotated[str | None, Field(max_length=20, description="qcow2, vmdk, raw, iso, tree or oci")] = None
    sha256: Annotated[str | None, Field(max_length=64)] = None
    firmware: Annotated[str, Field(max_length=20, description="bios or uefi")] = "bios"
    agent: bool = False
    cloud_init: bool = False
    max_size: Annotated[Size | None, Field(description="Largest disk or tree it may become; left out: 4 TiB")] = None
    replace: bool = False


class ImageImportBody(ImportFields):
    """Import a file of the daemon's host."""

    source: Literal["import"]
    name: Name
    path: Annotated[str, Field(min_length=1, max_length=4096, description="Absolute")]


class ImageUpload(ImportFields):
    """The query of an upload."""

    name: Name


ImageBody = Annotated[ImageBuildBody | ImagePullBody | ImageImportBody, Field(discriminator="source")]


class NetworkBody(Body):
    """A further network."""

    name: Name
    subnet: Annotated[str | None, Field(max_length=40, description="Like 10.99.0.0/16; left out: a free one")] = None


class TerminalBody(Body):
    """A terminal's kind and size."""

    term: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9+._-]*$")] = "xterm-256color"
    columns: Annotated[int, Field(ge=1, le=10000)] = 80
    rows: Annotated[int, Field(ge=1, le=10000)] = 24


class CommandBody(Body):
    """The first message of an exec session."""

    argv: Annotated[list[str], Field(max_length=4096)] = []
    env: Annotated[dict[str, str], Field(max_length=1024)] = {}
    user: Annotated[str | None, Field(max_length=255)] = None
    cwd: Annotated[str | None, Field(max_length=4096)] = None
    terminal: TerminalBody | None = None


class ConsoleBody(Body):
    """The first message of a console session."""

    terminal: TerminalBody = TerminalBody()


# Replies


def list_row(model: type[BaseModel], key: str) -> type[BaseModel]:
    """The model in a list: every key is there unless `fields` asked for less."""
    kept: dict[str, Any] = {
        name: (field.annotation, ... if name == key else None) for name, field in model.model_fields.items()
    }
    return create_model(f"{model.__name__}Row", __doc__=model.__doc__, **kept)


class ErrorFields(BaseModel):
    """An error inside another object."""

    kind: str
    code: str
    message: str
    hint: str
    details: dict[str, Any] = {}


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    kind: str
    code: str
    hint: str
    details: dict[str, Any] = {}


class InstanceRow(BaseModel):
    """One instance in a list; every key is there unless `fields` asked for less."""

    name: str
    engine: str = ""
    state: State = State.STOPPED
    addresses: list[str] = []
    image: str | None = None
    origin: Origin = Origin.MANAGED
    created: datetime | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    accelerated: bool | None = None
    error: str | None = None


class EngineProblem(BaseModel):
    """An engine that could not be read."""

    engine: str
    error: ErrorFields


class InstanceList(BaseModel):
    """A page of instances."""

    items: list[InstanceRow]
    next: str | None
    unreachable: list[EngineProblem]


class InstanceDetail(BaseModel):
    """Everything of one instance."""

    name: str
    engine: str
    state: State
    addresses: list[str]
    image: str | None
    origin: Origin
    created: datetime | None
    cpus: float | None
    memory_bytes: int | None
    accelerated: bool | None
    error: str | None
    restarts: int | None
    uptime_s: float | None
    memory_used_bytes: int | None
    disk_used_bytes: int | None
    kernel: str | None
    isolation: dict[str, Any]
    network: list[dict[str, Any]]
    devices: list[dict[str, Any]]
    settings: dict[str, str]
    command: list[str]
    limits: Annotated[dict[str, float | int | str | None], Field(description="Every key; null: no limit")]


class Step(BaseModel):
    """A named step of an operation."""

    name: str
    text: str
    time: datetime


class Operation(BaseModel):
    """One operation."""

    id: str
    kind: str
    resource: str
    state: OperationState
    created: datetime
    started: datetime | None
    ended: datetime | None
    steps: list[Step]
    text: str
    fraction: float | None
    may_cancel: bool
    result: Any
    error: ErrorFields | None
    data: dict[str, Any]


if TYPE_CHECKING:
    OperationRow = Operation
else:
    OperationRow = list_row(Operation, "id")


class OperationList(BaseModel):
    """A page of operations, newest first."""

    items: list[OperationRow]
    next: str | None


class Stats(BaseModel):
    """Counters of one running instance since it started."""

    name: str
    engine: str
    cpu_time_s: float
    memory_bytes: int
    memory_limit_bytes: int | None
    disk_read_bytes: int
    disk_write_bytes: int
    net_rx_bytes: int
    net_tx_bytes: int
    pids: int | None


class FileStat(BaseModel):
    """What is at a path inside an instance."""

    path: str
    kind: Literal["file", "folder", "link", "other"]
    size: int
    mode: int
    mtime: datetime
    target: str | None
    folder: bool


class StatsList(BaseModel):
    """Counters of every running instance, and when they were read."""

    items: list[Stats]
    time: datetime


class Template(BaseModel):
    """A booted, idle, saved machine that instances of an image start warm from."""

    engine: str
    image: str
    size: Annotated[int, Field(description="Bytes on disk")]
    created: datetime
    ready: Annotated[bool, Field(description="Whether an instance could start from it now")]
    why: Annotated[str, Field(description="Why it is not ready")]


class TemplateList(BaseModel):
    """All templates."""

    items: list[Template]


class Image(BaseModel):
    """One image."""

    name: str
    digest: str
    created: datetime
    source: str
    size: int
    forms: dict[str, dict[str, Any]]
    used_by: list[str]
    sha256: Annotated[str, Field(description="Of the file it was imported from, else empty")]
    packages: Annotated[int, Field(description="How many are installed; 0: unknown")]
    notes: list[str]
    templates: list[Template]


if TYPE_CHECKING:
    ImageRow = Image
else:
    ImageRow = list_row(Image, "name")


class ImageList(BaseModel):
    """A page of images."""

    items: list[ImageRow]
    next: str | None


class Network(BaseModel):
    """One network."""

    name: str
    bridge: str
    subnet: str
    gateway: str
    domain: str
    default: bool
    members: list[str]


if TYPE_CHECKING:
    NetworkRow = Network
else:
    NetworkRow = list_row(Network, "name")


class NetworkList(BaseModel):
    """A page of networks."""

    items: list[NetworkRow]
    next: str | None


class Facet(BaseModel):
    """An ability of an engine; `reason` says why it is missing."""

    available: bool
    reason: str


class LimitAbility(Facet):
    """A limit that an engine can set; `live`: also on a running instance, at once."""

    live: bool


class Engine(BaseModel):
    """What an engine can do on this host."""

    name: str
    title: str
    available: bool
    version: str | None
    reason: str
    hint: str
    facets: dict[str, Facet]
    limits: dict[str, LimitAbility]
    facts: dict[str, Any]


class Blocker(BaseModel):
    """What on this host blocks a network; `fix` is a command or a next step."""

    what: str
    sentence: str
    fix: str


class Host(BaseModel):
    """The host and its engines."""

    hostname: str
    kernel: str
    architecture: str
    cpus: int
    memory_bytes: int
    memory_available_bytes: int | None
    data: str
    data_free_bytes: int
    version: str
    engines: list[Engine]
    network_blockers: list[Blocker]
    network_problems: list[ErrorFields]


class Version(BaseModel):
    """The daemon; `features` grows, nothing is taken away."""

    name: str
    version: str
    api: str
    features: list[str]
