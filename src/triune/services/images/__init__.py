"""Images: what instances start from. Built, pulled, imported; kept by digest; named `family/version` or `docker:…`."""

from __future__ import annotations

from triune.services.images.options import BuildOptions, ImportOptions
from triune.services.images.service import Images

__all__ = ["BuildOptions", "Images", "ImportOptions"]
