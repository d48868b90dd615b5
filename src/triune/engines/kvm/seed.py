"""The NoCloud seed: first-boot data for cloud-init on a small ISO image with the label `cidata`.

Format: cloudinit.readthedocs.io, datasource NoCloud. JSON is YAML, so the two generated files are written as JSON.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from triune.domain.errors import Unsupported
from triune.host.run import run

_NOTHING = "#cloud-config\n{}\n"
_TOOLS = ("xorriso", "genisoimage", "mkisofs")


def files(name: str | None, instance_id: str, user_data: str | None) -> dict[str, str]:
    """The seed's files: name → content. `name` None: the system keeps its own."""
    network = {"version": 2, "ethernets": {"all": {"match": {"name": "e*"}, "dhcp4": True}}}
    meta = {"instance-id": instance_id} | ({"local-hostname": name} if name else {})
    return {
        "meta-data": json.dumps(meta) + "\n",
        "network-config": json.dumps(network) + "\n",
        "user-data": _NOTHING if user_data is None else user_data,
    }


def tool() -> list[str]:
    """How the image is made here. Raises Unsupported("tool_missing")."""
    for name in _TOOLS:
        if shutil.which(name):
            return [name, "-as", "mkisofs"] if name == "xorriso" else [name]
    raise Unsupported(
        "tool_missing", f"user data needs one of {', '.join(_TOOLS)}, none installed here", hint="Run: triune setup"
    )


def write(target: Path, contents: dict[str, str]) -> None:
    """Make the image at `target`."""
    maker = tool()
    # Beside it, so that what a crash leaves goes with the instance.
    with tempfile.TemporaryDirectory(prefix="seed-", dir=target.parent) as scratch:
        folder, image = Path(scratch) / "files", Path(scratch) / "seed.iso"
        folder.mkdir()
        for name, text in contents.items():
            (folder / name).write_text(text)
        run([*maker, "-quiet", "-output", image, "-volid", "cidata", "-joliet", "-rock", folder])
        # User data holds passwords and keys, and the instance's folder lets everybody pass who knows a name in it.
        image.chmod(0o600)
        image.rename(target)
