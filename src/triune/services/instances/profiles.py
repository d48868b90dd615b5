"""Named sets of settings for launches, in each engine's own words."""

from __future__ import annotations

import difflib
from dataclasses import replace

from triune.domain.errors import Invalid
from triune.domain.instance import InstanceSpec
from triune.domain.limits import parse
from triune.engines.base import Engine
from triune.services.instances.facets import require_facet

HARDENED = "hardened"


def applied(profile: str, spec: InstanceSpec, engine: Engine) -> InstanceSpec:
    """The spec with what the profile adds; what the launch says itself stays. Raises Invalid, Unsupported."""
    if not profile:
        return spec
    if profile != HARDENED:
        near = difflib.get_close_matches(profile, [HARDENED], n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There is one: {HARDENED}."
        raise Invalid("unknown_profile", f"there is no profile {profile!r}", hint=hint, profile=profile)
    auditing = require_facet(engine, "auditing", engine.auditing)
    keys = engine.limiting.keys if engine.limiting is not None else frozenset()
    wanted = {key: value for key, value in parse(dict(auditing.hardened_limits)).items() if key in keys}
    given = spec.limits.by_key()
    return replace(
        spec,
        settings={**auditing.hardened, **spec.settings},
        limits=spec.limits.changed({key: value for key, value in wanted.items() if key not in given}),
    )
