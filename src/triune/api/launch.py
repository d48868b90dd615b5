"""From the body of a launch to what the instances service takes."""

from __future__ import annotations

from dataclasses import replace

from triune.api.schemas import LaunchBody
from triune.domain.errors import Invalid
from triune.domain.instance import InstanceSpec, VolumeMount
from triune.domain.limits import FIELDS, Limits, Value, parse
from triune.domain.network import parse_publish
from triune.domain.units import parse_size
from triune.services.instances import LaunchRequest


def launch_request(body: LaunchBody) -> LaunchRequest:
    """Parse sizes, limits, ports and volumes. Raises Invalid."""
    settings, limits = split(body)
    spec = InstanceSpec(
        name=body.name,
        image=body.image,
        engine=body.engine,
        cpus=limits.cpus,
        memory=limits.memory,
        disk=size(body.disk),
        network=body.network,
        publish=tuple(parse_publish(text) for text in body.publish),
        volumes=tuple(parse_volume(text) for text in body.volumes),
        env=body.env,
        command=tuple(body.command),
        settings=settings,
        limits=replace(limits, cpus=None, memory=None),
        pool=body.pool,
    )
    return LaunchRequest(
        spec=spec,
        wait=body.wait,
        user_data=body.user_data,
        timeout=body.timeout,
        start=body.start,
        cold=body.cold,
        profile=body.profile,
    )


def split(body: LaunchBody) -> tuple[dict[str, str], Limits]:
    """The engine's own settings, and all limits: of `limits`, of `settings`, of `cpus` and `memory`. Raises Invalid."""
    words: dict[str, Value | None] = dict(body.limits)
    given = {"cpus": body.cpus, "memory": size(body.memory)}
    for key, value in [
        *((key, value) for key, value in body.settings.items() if key in FIELDS),
        *((key, value) for key, value in given.items() if value is not None),
    ]:
        if key in words:
            raise Invalid("limit_twice", f"the limit {key} is given twice", hint="Give it once.", key=key)
        words[key] = value
    settings = {key: value for key, value in body.settings.items() if key not in FIELDS}
    return settings, Limits().changed(parse(words))


def size(value: int | str | None) -> int | None:
    """Bytes. Raises Invalid."""
    return parse_size(value) if isinstance(value, str) else value


def parse_volume(text: str) -> VolumeMount:
    """Parse `SOURCE:/path[:ro]`, or the name of a volume alone, which is a disk. Raises Invalid."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or (not target and (":" in text or "/" in source)) or mode not in ("", "ro", "rw"):
        raise Invalid(
            "bad_volume",
            f"{text!r} is not a volume to mount",
            hint="Write it like data:/srv, /srv/www:/srv/www or /etc/app:/etc/app:ro.",
        )
    return VolumeMount(source=source, target=target, read_only=mode == "ro")
