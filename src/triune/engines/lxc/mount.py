"""`python -m triune.engines.lxc.mount FOLDER`: mount the root of one container, or with `--away` take its mounts away.

Called by the hooks pre-start.sh and destroy.sh.
"""

from __future__ import annotations

import sys
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.engines.lxc import layers, mark, restoring, roots


def main(folder: Path, *, away: bool = False) -> int:
    """Mount what is not mounted, or unmount what is; 1 with a sentence on standard error when that fails."""
    try:
        found = mark.read(folder)
        if found is None:
            sys.stderr.write(f"{folder} holds no container made by Triune\n")
            return 1
        if away:
            layers.unmount_root(folder)
            layers.release_lower(folder.parent, found, folder)
            if found.pool is not None:
                roots.remove_data(folder, found)
                roots.release_image(folder.parent, found, folder)
        else:
            restoring.settle(folder, found)
            layers.mount_root(folder, mark.read(folder) or found)
    except TriuneError as error:
        sys.stderr.write(f"{error.message}. {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[-1]), away=sys.argv[1] == "--away"))
