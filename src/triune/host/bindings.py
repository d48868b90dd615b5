"""The distribution's own Python bindings, from any virtual environment.

libvirt's and liblxc's bindings are compiled against the system's libraries, so Debian's packages
(python3-libvirt, python3-lxc) are the right ones. A plain virtual environment does not see them; this loads just
those modules from the distribution's folder, and nothing else of it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

_DIST_PACKAGES = Path("/usr/lib/python3/dist-packages")
_loading = threading.RLock()
_COMPILED = {"libvirt": ("libvirtmod",), "libvirt_qemu": ("libvirtmod_qemu",), "lxc": ("_lxc",)}


def load(name: str) -> ModuleType:
    """Import `name` (libvirt, libvirt_qemu, lxc). Raises ImportError where it is not installed for this Python."""
    # A module stands in sys.modules before it is whole, and unlike import this would hand it out so.
    with _loading:
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
        finder = importlib.machinery.PathFinder()
        # Compiled parts of the binding (libvirtmod, _lxc) are imported by name from within it.
        for part in _COMPILED.get(name, ()):
            _load_from_distribution(finder, part)
        return _load_from_distribution(finder, name)


def _load_from_distribution(finder: importlib.machinery.PathFinder, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = finder.find_spec(name, [str(_DIST_PACKAGES)])
    if spec is None or spec.loader is None:
        raise ImportError(f"No module named {name!r} in this environment or in {_DIST_PACKAGES}", name=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
