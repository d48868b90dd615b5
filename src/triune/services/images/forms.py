"""The forms of an image: those on disk, and the OCI form, which lives in an engine's store and is made on demand."""

from __future__ import annotations

from collections.abc import Mapping

from triune.domain.errors import Failed, Unreachable, Unsupported
from triune.domain.image import Form, FormKind, OciForm
from triune.domain.operation import Progress
from triune.engines.base import Engine, OciStore
from triune.services.images.archive import has_program
from triune.services.images.manifest import Manifest, OciRecord
from triune.services.images.references import own_reference
from triune.services.images.store import ImageStore
from triune.services.images.streams import file_stream, tree_stream

# Put before the command of an application container; see there.
_START = "/usr/lib/triune/start"


class Forms:
    """Finds and makes forms."""

    def __init__(self, store: ImageStore, engines: Mapping[str, Engine]) -> None:
        self._store = store
        self._engines = engines

    def oci_store(self) -> OciStore | None:
        """The store of OCI images, where an engine of this host has one."""
        return next((engine.oci for engine in self._engines.values() if engine.oci is not None), None)

    def require_oci_store(self) -> OciStore:
        """The store, or Unsupported("no_oci_store")."""
        oci = self.oci_store()
        if oci is None:
            raise Unsupported(
                "no_oci_store", "no engine of this host holds OCI images", hint="See what is missing: triune doctor"
            )
        return oci

    def possible(self, manifest: Manifest) -> set[FormKind]:
        """Forms the image has or can get on this host."""
        folder = self._store.folder(manifest.digest)
        kinds: set[FormKind] = set()
        if manifest.disk_form(folder):
            kinds.add(FormKind.DISK)
        if manifest.tree_form(folder):
            kinds.add(FormKind.TREE)
        if (manifest.tree or manifest.archive) and self.oci_store() is not None:
            kinds.add(FormKind.OCI)
        return kinds

    def present(self, manifest: Manifest) -> tuple[dict[FormKind, Form], dict[FormKind, int]]:
        """The forms there are now, and their sizes in bytes."""
        folder = self._store.folder(manifest.digest)
        forms: dict[FormKind, Form] = {}
        sizes: dict[FormKind, int] = {}
        disk, tree = manifest.disk_form(folder), manifest.tree_form(folder)
        if disk and manifest.disk:
            forms[FormKind.DISK], sizes[FormKind.DISK] = disk, manifest.disk.size
        if tree and manifest.tree:
            forms[FormKind.TREE], sizes[FormKind.TREE] = tree, manifest.tree.size
        record = self._known(manifest.digest)
        if record:
            forms[FormKind.OCI], sizes[FormKind.OCI] = record.form, record.size
        return forms, sizes

    def get(self, manifest: Manifest, kind: FormKind, progress: Progress) -> Form:
        """The form of this kind. Raises Unsupported("no_form")."""
        folder = self._store.folder(manifest.digest)
        form: Form | None = None
        if kind is FormKind.DISK:
            form = manifest.disk_form(folder)
        elif kind is FormKind.TREE:
            form = manifest.tree_form(folder)
        elif manifest.tree or manifest.archive:
            form = self.derive_oci(manifest, progress)
        if form is None:
            raise self.no_form(manifest.name, kind, self.possible(manifest))
        return form

    def derive_oci(self, manifest: Manifest, progress: Progress) -> OciForm:
        """The OCI form, loaded into the store where it is not there (any more)."""
        oci = self.require_oci_store()
        record = self._store.oci_record(manifest.digest)
        if record is not None and oci.inspect(record.id) is not None:
            return record.form
        progress.step("oci", f"loading {manifest.name} into the store of OCI images")
        reference = own_reference(manifest.name)
        folder = self._store.folder(manifest.digest)
        if manifest.archive:
            form = oci.load_archive(file_stream(folder / manifest.archive), reference)
        elif manifest.tree:
            labels = {"triune.image": manifest.name, "triune.digest": manifest.digest}
            if has_program(folder / manifest.tree.path, _START):
                labels["triune.start"] = _START
            with tree_stream(folder / manifest.tree.path) as tar:
                form = oci.load_tree(tar, reference, command=list(manifest.command), labels=labels)
        else:
            raise self.no_form(manifest.name, FormKind.OCI, self.possible(manifest))
        facts = oci.inspect(form.id)
        if facts is None:
            raise Failed("oci_lost", f"{reference} vanished right after it was loaded", hint="Try again.")
        self._store.set_oci_record(
            manifest.digest, OciRecord(id=form.id, reference=form.reference, size=told_size(facts))
        )
        return form

    def drop_oci(self, digest: str) -> None:
        """Remove an image's OCI form from the store; its tag may have gone to another. Gone: succeed."""
        record, oci = self._store.oci_record(digest), self.oci_store()
        if record is None or oci is None:
            return
        tagged = oci.inspect(record.reference)
        oci.remove(record.reference if tagged and tagged["id"] == record.id else record.id)

    def no_form(self, name: str, kind: FormKind, there: set[FormKind]) -> Unsupported:
        """The error for a form an image has not, with the engines that could run it."""
        able = [engine.name for engine in self._engines.values() if engine.form_kind in there]
        has = ", ".join(sorted(there)) or "none"
        return Unsupported(
            "no_form",
            f"{name} has no {kind} form; it has: {has}",
            hint=f"Launch it with --engine {able[0]}." if able else "Build or import another image.",
            forms=sorted(there),
        )

    def _known(self, digest: str) -> OciRecord | None:
        record = self._store.oci_record(digest)
        oci = self.oci_store()
        if record is None or oci is None:
            return None
        try:
            return record if oci.inspect(record.id) is not None else None
        except Unreachable:
            # The store is down, not empty: what was noted is the best that is known.
            return record


def told_size(facts: Mapping[str, object]) -> int:
    """The size an OCI store tells of an image, in bytes; 0 where it does not."""
    size = facts.get("size")
    return size if isinstance(size, int) else 0
