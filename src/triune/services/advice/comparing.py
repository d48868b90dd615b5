"""The comparison of the engines: published cells, and this host's where its probe or a measurement tells better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triune.services.advice.knowledge import features, knowledge
from triune.services.advice.measured import told

PUBLISHED, PROBE, MEASURED = "published", "probe", "measured"


def compare(host: Mapping[str, Any]) -> dict[str, Any]:
    """`{rules_version, host, engines, rows}`; each row `{feature, title, cells}`, each cell `{text, from, source}`.

    `host` is what GET /v1/host tells, empty where no daemon answers, and in `measured` what `bench run` found. `from`
    is published, probe or measured.
    """
    known = knowledge()
    probed = {one["name"]: one for one in host.get("engines", ()) if isinstance(one, Mapping) and "name" in one}
    rows = []
    for row in features()["rows"]:
        source = known.sources[row["source"]]
        cells = {}
        for engine in known.engines:
            cells[engine] = {
                "text": row["cells"][engine],
                "from": PUBLISHED,
                "source": f"{source.title}, {source.url}",
            }
            if text := _here(row.get("probe"), probed.get(engine)):
                cells[engine] = {"text": text, "from": PROBE, "source": f"probe of {host.get('hostname')}"}
            text, whence = told(row.get("measured"), host, engine)
            if text:
                cells[engine] = {"text": text, "from": MEASURED, "source": whence}
        rows.append({"feature": row["id"], "title": row["title"], "cells": cells})
    return {
        "rules_version": f"{known.version} of {known.date}",
        "host": host.get("hostname"),
        "engines": list(known.engines),
        "rows": rows,
    }


def _here(ask: Mapping[str, Any] | None, engine: Mapping[str, Any] | None) -> str:
    """What this host's probe tells; "" where it tells nothing of it."""
    if not ask or engine is None:
        return ""
    if "engine" in ask:
        if not engine.get("available"):
            return f"not here: {engine.get('reason') or 'not available'}"
        return f"yes, {engine.get('version') or 'of an unknown version'}"
    if "fact" in ask:
        facts = engine.get("facts") or {}
        return str(ask["when"].get(facts.get(ask["fact"]), "")) if ask["fact"] in facts else ""
    kind, name = next(iter(ask.items()))
    found = (engine.get(f"{kind}s") or {}).get(name)
    if not isinstance(found, Mapping):
        return ""
    return "yes" if found.get("available") else f"no: {found.get('reason') or 'not on this host'}"
