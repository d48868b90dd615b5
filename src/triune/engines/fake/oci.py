"""The fake engine's store of OCI images: references and ids, no contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from triune.domain.errors import Denied, NotFound
from triune.domain.image import OciForm
from triune.domain.operation import Progress
from triune.engines.base import Credentials


class FakeImages:
    """Any reference can be pulled, but those with `missing` in them; those with `private` need a password."""

    def __init__(self, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._images: dict[str, dict[str, object]] = {}

    def load_tree(
        self, tar: Iterator[bytes], reference: str, *, command: Sequence[str], labels: Mapping[str, str]
    ) -> OciForm:
        """Remember the content's digest and size."""
        del labels
        return self._add(tar, reference, list(command))

    def load_archive(self, archive: Iterator[bytes], reference: str) -> OciForm:
        """The same."""
        return self._add(archive, reference, [])

    def pull(self, reference: str, credentials: Credentials | None, progress: Progress) -> OciForm:
        """Pretend, in four pieces."""
        self._alive()
        progress.step("docker-pull", f"pulling {reference}")
        if "missing" in reference:
            raise NotFound("image_not_found", f"the registry has no image {reference}", hint="Check the name and tag.")
        if "private" in reference and credentials is None:
            raise Denied("registry_denied", f"{reference} is private", hint="Give a user name and password.")
        for quarter in range(1, 5):
            progress.report(quarter / 4, f"{quarter} of 4 layers")
        return self._add(iter((reference.encode(),)), reference, [])

    def inspect(self, reference: str) -> Mapping[str, object] | None:
        """By tag or id."""
        self._alive()
        by_id = (image for image in self._images.values() if image["id"] == reference)
        return self._images.get(reference) or next(by_id, None)

    def remove(self, reference: str) -> None:
        """Forget the tag."""
        self._alive()
        self._images.pop(reference, None)

    def _add(self, content: Iterator[bytes], reference: str, command: list[str]) -> OciForm:
        self._alive()
        digest, size = hashlib.sha256(), 0
        for piece in content:
            digest.update(piece)
            size += len(piece)
        identity = f"sha256:{digest.hexdigest()}"
        self._images[reference] = {
            "id": identity,
            "size": size,
            "created": datetime.now(UTC).isoformat(),
            "command": command,
            "digest": None,
        }
        return OciForm(id=identity, reference=reference)
