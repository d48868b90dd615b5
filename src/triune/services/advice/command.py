"""The `triune launch` that follows from an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from triune.domain.workload import Workload
from triune.services.advice.knowledge import Knowledge

_INSTALLER = "INSTALLER.iso"
_OCI = re.compile(r"[a-z][a-z0-9+]*:")  # a scheme: the image is an engine's own, not ours


def launch_command(
    workload: Workload, engine: str, settings: Sequence[Mapping[str, Any]], known: Knowledge
) -> tuple[str, ...]:
    """The words of the command. Words in capitals are for the reader to fill in."""
    words = ["triune", "launch", *_what(workload, engine, known), "--engine", engine]
    for key, option in (("cpus", "--cpus"), ("memory", "--memory"), ("disk", "--disk")):
        if workload[key] is not None:
            value = workload[key]
            words += [option, f"{value:g}" if key == "cpus" else _size(value)]
    for key, option in (("publish", "--publish"), ("volumes", "--volume"), ("env", "--env")):
        words += [word for value in workload[key] for word in (option, value)]
    return (*words, *(word for setting in settings for word in setting["options"]))


def _size(size: int) -> str:
    """As people write it, and not a byte less: 512MiB."""
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % bytes_ == 0:
            return f"{size // bytes_}{unit}"
    return str(size)


def _what(workload: Workload, engine: str, known: Knowledge) -> list[str]:
    name = re.sub(r"[^a-z0-9]+", "-", workload["name"].lower()).strip("-")[:63].strip("-") or "NAME"
    image, usual = workload["image"], known.engines[engine]["image"]
    if workload["packaging"] == "installer" or (workload["os"] != "linux" and not image):
        return ["--iso", image or _INSTALLER, name]
    if workload["packaging"] == "disk-image" and not image:
        return ["IMAGE", name]
    # An image that names its engine's store serves that engine only.
    return [image if image and of_a_store(image) <= of_a_store(usual) else usual, name]


def of_a_store(image: str) -> bool:
    """Whether an image's name has an engine's own store in front, like docker:nginx."""
    return _OCI.match(image) is not None
