"""The engine of a launch, chosen by what a workload file demands."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from triune.cli import looking
from triune.cli.advise import host_facts
from triune.cli.text import clean
from triune.domain.errors import Invalid
from triune.domain.workload import parse
from triune.services.advice.advising import advise, require_choice
from triune.services.advice.command import of_a_store


def engine_for(file: str, image: str | None, given: Mapping[str, Any], *, quiet: bool) -> str:
    """The engine that fits; says on stderr which and why. What the launch says wins over the file; `image` None is an
    installer.

    Raises Invalid, and Unsupported("no_engine_fits") where none does.
    """
    data = looking.load(file)
    if isinstance(data, dict):
        said = {key: given[key] for key in ("cpus", "memory", "disk") if given[key] is not None}
        packaging = "installer" if image is None else "oci-image" if of_a_store(image) else None
        data = {"packaging": packaging, **data, **said, "image": image}
    workload = parse(data)
    if workload.parts:
        raise Invalid(
            "workload_has_parts",
            f"{file} describes {len(workload.parts)} parts, and a launch makes one instance",
            hint=f"See the answer for each: triune advise --workload {file}",
        )
    answer = require_choice(advise(workload, host_facts()))
    best = answer.ranking[0]
    if not quiet:
        print(clean(f"{best.engine} was chosen: {answer.why(best.engine)}"), file=sys.stderr)
    return best.engine
