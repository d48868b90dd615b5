"""Print a dependency group of pyproject.toml, one requirement a line, for pip-compile. `build`: the build's own."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())

if __name__ == "__main__":
    group = sys.argv[1]
    # An editable install by hatchling asks for `editables` too.
    build = [*_PROJECT["build-system"]["requires"], "editables"]
    sys.stdout.write("\n".join(build if group == "build" else _PROJECT["dependency-groups"][group]) + "\n")
