"""`triune serve` with networks on paper: `python -m tests.api.paper_daemon [PID_FILE]`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.api.fakes import FakeNetworks, FakeShaper
from triune.api import server
from triune.app import Settings, Triune
from triune.cli.problems import tell
from triune.domain.errors import TriuneError


def main() -> int:
    pid_file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        server.serve(
            Settings.load(),
            pid_file=pid_file,
            wire=lambda settings: Triune(settings, make_networks=FakeNetworks, make_shaper=FakeShaper),  # type: ignore[arg-type]
        )
    except TriuneError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
