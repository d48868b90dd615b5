"""The kernel's own account of how it was built: which options it has, and which of its modules are here to load."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping

from triune.host.probe.view import View


def parse_kernel_config(text: str) -> Mapping[str, str]:
    """A kernel's configuration, `CONFIG_X=y` by name. Lines that say `is not set` are left out. Never raises."""
    options = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.startswith("CONFIG_"):
            options[name] = value.strip()
    return options


def release(view: View) -> str:
    """The running kernel's release, "" where it can't be read."""
    return view.files.text("/proc/sys/kernel/osrelease") or ""


def read_config(view: View) -> Mapping[str, str]:
    """The running kernel's configuration; empty where it is told nowhere."""
    text = view.files.text(f"/boot/config-{release(view)}")
    if text is None:
        try:
            text = gzip.decompress(view.files.path("/proc/config.gz").read_bytes()).decode(errors="replace")
        except (OSError, EOFError, zlib.error):
            return {}
    return parse_kernel_config(text)


def loadable(view: View) -> frozenset[str]:
    """The modules that can be loaded, by name with `_` (modules.dep(5): `path/name.ko[.xz]: what it needs`)."""
    lines = view.files.lines(f"/lib/modules/{release(view)}/modules.dep")
    paths = (line.partition(":")[0] for line in lines)
    return frozenset(path.rpartition("/")[2].partition(".ko")[0].replace("-", "_") for path in paths)
