"""The Python SDK: a client of the daemon's API. Standalone: it imports nothing of the rest but `domain`.

    from triune.sdk import Client

    client = Client()
    client.instances.launch(name="web", image="debian/12", engine="lxc")

Imports are lazy (PEP 562): the command line's quickest command uses `triune.sdk.transport` alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from triune.sdk.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> object:
    if name == "Client":
        from triune.sdk.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
