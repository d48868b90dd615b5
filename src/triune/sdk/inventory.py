"""The list of instances. Apart from the rest, and free of costly imports: the quickest command needs only this."""

from __future__ import annotations

from triune.sdk.pages import pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from triune.sdk.transport import Transport
    from triune.sdk.types import EngineProblem, InstanceRow

_PAGE = 1000


def inventory(transport: Transport, filter_text: str | None = None) -> tuple[list[InstanceRow], list[EngineProblem]]:
    """All instances, by name, and the engines that could not be read."""
    rows: list[InstanceRow] = []
    problems: dict[str, EngineProblem] = {}
    for page in pages(transport, "/v1/instances", limit=_PAGE, filter=filter_text):
        rows += page["items"]
        problems.update((problem["engine"], problem) for problem in page["unreachable"])
    return rows, list(problems.values())
