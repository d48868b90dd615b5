"""From the nouns of the domain to the API's JSON, as plain dicts. `schemas` describes the same shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triune.domain.files import FileStat
from triune.domain.image import Form, Image
from triune.domain.instance import Instance, InstanceDetail
from triune.domain.limits import FIELDS, Limits
from triune.domain.network import Network
from triune.domain.operation import Operation
from triune.domain.pool import Pool, Volume
from triune.services.instances import Counted, EngineProblem
from triune.services.operations import Event

ROW_FIELDS = frozenset(field.name for field in fields(Instance))


def time(when: datetime | None) -> str | None:
    """RFC 3339, or None."""
    return None if when is None else when.isoformat()


def row(instance: Instance) -> dict[str, Any]:
    """One instance in a list."""
    return {
        "name": instance.name,
        "engine": instance.engine,
        "state": instance.state.value,
        "addresses": list(instance.addresses),
        "image": instance.image,
        "origin": instance.origin.value,
        "created": time(instance.created),
        "cpus": instance.cpus,
        "memory_bytes": instance.memory_bytes,
        "accelerated": instance.accelerated,
        "error": instance.error,
    }


def detail(found: InstanceDetail, limits: Limits, *, restarts: int, published: Sequence[str]) -> dict[str, Any]:
    """Everything of one instance. `restarts` and `published` are ours, for engines that don't know them."""
    cards = [plain(card) for card in found.network]
    for card in cards[:1]:
        card["published"] = card.get("published") or list(published)
    return {
        **row(found.instance),
        "restarts": restarts if found.restarts is None else found.restarts,
        "uptime_s": found.uptime_s,
        "memory_used_bytes": found.memory_used_bytes,
        "disk_used_bytes": found.disk_used_bytes,
        "kernel": found.kernel,
        "isolation": plain(found.isolation),
        "network": cards,
        "devices": [plain(device) for device in found.devices],
        "settings": dict(found.settings),
        "command": list(found.command),
        "limits": {key: limits.get(key) for key in FIELDS},
    }


def etag(found: InstanceDetail, limits: Limits, intent: Mapping[str, Any] | None) -> str:
    """A tag of the configuration: what was asked for and what is set, not what the instance is doing."""
    instance = found.instance
    config = [
        instance.name,
        instance.engine,
        instance.origin.value,
        instance.image,
        time(instance.created),
        limits.by_key(),
        dict(found.settings),
        list(found.command),
        plain(intent or {}).get("spec"),
    ]
    return f'"{hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:32]}"'


def problem(found: EngineProblem) -> dict[str, Any]:
    """An engine that could not be read."""
    return {"engine": found.engine, "error": plain(found.error.as_dict())}


def operation(found: Operation) -> dict[str, Any]:
    """One operation."""
    return {
        "id": found.id,
        "kind": found.kind,
        "resource": found.resource,
        "state": found.state.value,
        "created": time(found.created),
        "started": time(found.started),
        "ended": time(found.ended),
        "steps": [{"name": name, "text": text, "time": time(when)} for name, text, when in found.steps],
        "text": found.text,
        "fraction": found.fraction,
        "may_cancel": found.may_cancel,
        "result": plain(found.result),
        "error": plain(found.error),
        "data": plain(found.data),
    }


def event(found: Event) -> dict[str, Any]:
    """One event."""
    return {
        "sequence": found.sequence,
        "time": time(found.time),
        "type": found.type,
        "subject": found.subject,
        "data": plain(found.data),
    }


def stats(found: Counted) -> dict[str, Any]:
    """The counters of one instance."""
    return {"name": found.name, "engine": found.engine, **asdict(found.stats)}


def file_stat(path: str, found: FileStat) -> dict[str, Any]:
    """What is at a path inside."""
    return {"path": path, **asdict(found), "mtime": time(datetime.fromtimestamp(found.mtime, UTC))}


def image(found: Image) -> dict[str, Any]:
    """One image with its forms."""
    return {
        "name": found.name,
        "digest": found.digest,
        "created": time(found.created),
        "source": found.source,
        "size": found.size,
        "forms": {kind.value: _form(form, found.form_sizes.get(kind)) for kind, form in found.forms.items()},
        "used_by": list(found.used_by),
        "sha256": found.sha256,
        "packages": found.packages,
        "notes": list(found.notes),
        "templates": [template(row) for row in found.templates],
    }


def template(row: Mapping[str, object]) -> dict[str, Any]:
    """One template of an image."""
    created = row["created"]
    return {**row, "created": time(created) if isinstance(created, datetime) else None}


def _form(form: Form, size: int | None) -> dict[str, Any]:
    return {"size": size, **plain(asdict(form))}


def network(found: Network, *, default: bool, members: Sequence[str]) -> dict[str, Any]:
    """One network and the instances that hold an address in it."""
    return {**asdict(found), "default": default, "members": list(members)}


def pool(found: Pool) -> dict[str, Any]:
    """One pool."""
    return dict(plain(asdict(found)))


def volume(found: Volume) -> dict[str, Any]:
    """One volume."""
    return dict(plain(asdict(found)))


def plain(value: Any) -> Any:
    """The value as JSON has it: enums as values, times RFC 3339, paths and anything unknown as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None  # no NaN, no infinity in JSON
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else repr(value)
