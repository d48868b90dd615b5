"""JSON replies, made once from plain dicts: a thousand rows cost no model each."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


class Json(Response):
    """A JSON body. ASCII only, so that no text an engine gave us (lone surrogates) can break the reply."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode it."""
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
