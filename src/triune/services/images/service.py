"""The collection of images: what the API and a launch call."""

from __future__ import annotations

import difflib
import errno
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from triune.domain.errors import Conflict, Failed, Invalid, NotFound, TriuneError, Unreachable, Unsupported
from triune.domain.image import Form, FormKind, Image, OciForm
from triune.domain.names import image_name
from triune.domain.operation import Progress
from triune.engines.base import Credentials, Engine
from triune.services.images.build import build_image, wanted_options
from triune.services.images.forms import Forms, told_size
from triune.services.images.imports import copy_in, decide, finished, import_disk, import_iso, import_tree
from triune.services.images.manifest import Manifest
from triune.services.images.options import BuildOptions, ImportOptions
from triune.services.images.references import OCI_PREFIX, oci_reference
from triune.services.images.releases import RELEASES
from triune.services.images.store import ImageStore, no_space

_Used = Mapping[str, Sequence[str]]
Users = Callable[[], _Used]


class Images:
    """Every method is safe from several threads; two that change the same name at once: the second gets Conflict.

    `users()` tells for each image name the instances that use it, as far as engines answer. Before anything is removed
    the engines are asked again, and one that is down counts as using it.
    """

    def __init__(self, root: Path, engines: Mapping[str, Engine], users: Users) -> None:
        self._store = ImageStore(root)
        self._engines = engines
        self._forms = Forms(self._store, engines)
        self._users = users
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._store.prepare()

    def list(self) -> list[Image]:
        """Every image, by name."""
        users = self._users()
        images = [self._image(name, digest, users) for name, digest in self._store.names().items()]
        return sorted([*images, *self._pulled(users)], key=lambda image: image.name)

    def get(self, name: str) -> Image:
        """One image. Raises NotFound("image_not_found")."""
        reference = oci_reference(name)
        users = self._users()
        if reference is None:
            return self._image(name, self._digest(name), users)
        image = self._oci_image(reference, users)
        if image is None:
            raise self._not_found(name)
        return image

    def kinds(self, reference: str) -> set[FormKind]:
        """Forms the image has or can get here; one of an OCI store need not be pulled yet. Raises NotFound."""
        if oci_reference(reference) is not None:
            return {FormKind.OCI}
        return self._forms.possible(self._store.manifest(self._digest(reference)))

    def require(self, reference: str, kind: FormKind) -> None:
        """Raise what `form` would, as far as that can be told without pulling or loading anything."""
        there = self.kinds(reference)
        if kind not in there:
            raise self._forms.no_form(reference, kind, there)

    def form(self, reference: str, kind: FormKind, progress: Progress) -> tuple[Form, str]:
        """The form an engine starts from, and the image's full name; pulls what is not here yet.

        Raises NotFound("image_not_found") and Unsupported("no_form").
        """
        name = oci_reference(reference)
        if name is None:
            digest = self._digest(reference)
            return self._forms.get(self._store.manifest(digest), kind, progress), reference
        self.require(reference, kind)
        oci = self._forms.require_oci_store()
        facts = oci.inspect(name)
        form = OciForm(id=str(facts["id"]), reference=name) if facts else oci.pull(name, None, progress)
        self._store.add_reference(name)
        return form, OCI_PREFIX + name

    def build(self, name: str, options: BuildOptions, progress: Progress) -> Image:
        """Build a release; an image of that name with the same options is returned as it is, unless `rebuild`."""
        with self._alone(name), self._space_watched(f"Building {name}"):
            digest = self._store.resolve(name)
            if digest is not None and not options.rebuild:
                there = self._store.manifest(digest)
                if dict(there.options) == wanted_options(options):
                    self._load_oci(there, progress)
                    return self.get(name)
            manifest = build_image(self._store, name, options, progress)
            self._take_name(name, manifest, digest)
            self._load_oci(manifest, progress)
        return self.get(name)

    def pull(self, reference: str, credentials: Credentials | None, progress: Progress) -> Image:
        """Pull `docker:NAME[:TAG]`, newer or not here yet."""
        name = oci_reference(reference)
        if name is None:
            raise Invalid(
                "not_pullable",
                f"{reference!r} names nothing a registry holds",
                hint=f"Write it as {OCI_PREFIX}NAME[:TAG]; a distribution is built: triune image build NAME",
            )
        progress.step("pull", f"pulling {name}")
        self._forms.require_oci_store().pull(name, credentials, progress)
        self._store.add_reference(name)
        return self.get(OCI_PREFIX + name)

    def import_file(self, source: Path, name: str, options: ImportOptions, progress: Progress) -> Image:
        """Import a file under a name; see `imports`."""
        image_name(name)
        with self._alone(name), self._space_watched(f"Importing {source.name}"):
            before = self._store.resolve(name)
            if before is not None and not options.replace:
                raise Conflict(
                    "image_exists",
                    f"there is an image {name} already",
                    hint="Choose another name, or replace it with --replace.",
                )
            with self._store.work("import") as work:
                manifest = self._import(source, name, work, options, progress)
                progress.step("publish", f"publishing {name}")
                self._store.publish(work, manifest)
            if manifest.archive:
                self._load_archive(manifest, progress)
            self._take_name(name, manifest, before)
        return self.get(name)

    def _load_archive(self, manifest: Manifest, progress: Progress) -> None:
        """Only what the engine has taken becomes an image: it alone can tell that an archive is whole."""
        try:
            self._forms.derive_oci(manifest, progress)
        except BaseException:
            if manifest.digest not in self._store.names().values():
                self._store.drop(manifest.digest)
            raise

    def _import(self, source: Path, name: str, work: Path, options: ImportOptions, progress: Progress) -> Manifest:
        progress.step("copy", f"reading {source.name}")
        copied = copy_in(self._store, source, work, options, progress)
        form = decide(copied.path, options)
        said = f"imported from {source.name}"
        if form == "oci":
            self._forms.require_oci_store()
            copied.path.rename(work / "archive.tar")
            return finished(name, copied, form, options, archive="archive.tar", source=said)
        if form == "iso":
            return finished(name, copied, form, options, disk=import_iso(copied, work, options), source=said)
        if form == "tree":
            tree, notes = import_tree(self._store, copied, work, options, progress)
            manifest = finished(name, copied, form, options, tree=tree, notes=notes, source=said)
        else:
            disk = import_disk(self._store, copied, form, work, options, progress)
            manifest = finished(name, copied, form, options, disk=disk, source=said)
        copied.path.unlink()
        return manifest

    def remove(self, name: str) -> None:
        """Remove an image. Raises Conflict("image_in_use") while an instance uses it, and NotFound."""
        with self._alone(name):
            reference = oci_reference(name)
            full = name if reference is None else OCI_PREFIX + reference
            users = self._users_surely(full)
            if users:
                raise Conflict(
                    "image_in_use",
                    f"{full} is used by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}",
                    hint=f"Remove them first: triune rm {' '.join(users[:5])}",
                    used_by=users,
                )
            if reference is not None:
                if self._oci_image(reference, {}) is None and reference not in self._store.references():
                    raise self._not_found(name)
                self._forms.require_oci_store().remove(reference)
                self._store.drop_reference(reference)
                return
            self._remove_named(name, self._digest(name))

    def _remove_named(self, name: str, digest: str) -> None:
        for engine in self._engines.values():
            if engine.templates is not None:
                engine.templates.remove(name)
        shared = digest in {there for other, there in self._store.names().items() if other != name}
        if not shared:
            # First, because the store may refuse.
            self._forms.drop_oci(digest)
        # Older builds of the name, kept for instances that used them, go with it.
        mine = [each for each in self._store.manifests() if name in self._store.names_had(each)]
        self._store.drop_name(name)
        named = set(self._store.names().values())
        for each in mine:
            if each.digest not in named:
                self._drop_replaced(each)

    def sweep(self) -> Sequence[str]:
        """Remove what interrupted builds, imports and removals left; returns what was removed."""
        named = set(self._store.names().values())
        replaced = [manifest for manifest in self._store.manifests() if manifest.digest not in named]
        return [*self._store.sweep(), *(each.digest for each in replaced if self._drop_replaced(each))]

    def _users_surely(self, name: str) -> Sequence[str]:
        """Who uses the image, or Conflict("image_use_unknown") where an engine that may know does not answer."""
        kinds = {FormKind.OCI} if oci_reference(name) is not None else set(self.get(name).forms)
        return self._users_of(name, kinds)

    def _users_of(self, name: str, kinds: Set[FormKind]) -> Sequence[str]:
        found = set(self._users().get(name, ()))
        for engine in self._engines.values():
            if engine.form_kind not in kinds:
                continue
            try:
                found.update(instance.name for instance in engine.list() if instance.image == name)
            except Unsupported:
                # Not installed: it has no instances.
                continue
            except Unreachable as error:
                raise Conflict(
                    "image_use_unknown",
                    f"whether {name} is in use can't be told: {error.message}",
                    hint=error.hint or "See what is wrong: triune doctor",
                ) from error
        return sorted(found)

    def _take_name(self, name: str, manifest: Manifest, before: str | None) -> None:
        self._store.set_name(name, manifest.digest)
        if before is None or before == manifest.digest:
            return
        if before not in self._store.names().values():
            self._drop_replaced(self._store.manifest(before))

    def _drop_replaced(self, manifest: Manifest) -> bool:
        """Remove files that no name stands for any more, unless instances started from them: those back onto them."""
        try:
            kinds = self._forms.possible(manifest)
            if any(self._users_of(name, kinds) for name in self._store.names_had(manifest)):
                return False
            self._forms.drop_oci(manifest.digest)
        except (Conflict, Unreachable):
            # Kept until that can be told, or until the image is removed.
            return False
        self._store.drop(manifest.digest)
        return True

    def _load_oci(self, manifest: Manifest, progress: Progress) -> None:
        """The OCI form of a build, where this host can hold it; else it is made when first asked for."""
        if self._forms.oci_store() is None:
            return
        try:
            self._forms.derive_oci(manifest, progress)
        except Unreachable as error:
            progress.report(None, f"no OCI form yet: {error.message}")

    def _digest(self, name: str) -> str:
        digest = self._store.resolve(name)
        if digest is None:
            raise self._not_found(name)
        return digest

    def _image(self, name: str, digest: str, users: _Used) -> Image:
        manifest = self._store.manifest(digest)
        forms, sizes = self._forms.present(manifest)
        notes = manifest.notes
        if FormKind.OCI not in forms and (manifest.tree or manifest.archive):
            notes += ("its OCI form is made when it is first asked for",)
        return Image(
            name=name,
            digest=f"sha256:{digest}",
            created=manifest.created,
            source=manifest.source,
            size=sum(sizes.values()),
            forms=forms,
            form_sizes=sizes,
            used_by=tuple(users.get(name, ())),
            packages=len(manifest.packages),
            sha256=manifest.sha256,
            notes=notes,
            templates=self._templates(name),
        )

    def _templates(self, name: str) -> tuple[Mapping[str, object], ...]:
        rows: list[Mapping[str, object]] = []
        for engine in self._engines.values():
            if engine.templates is not None:
                with suppress(TriuneError):  # an engine that is away: what it keeps is told when it is back
                    rows.extend(
                        {"engine": engine.name, **row} for row in engine.templates.list() if row["image"] == name
                    )
        return tuple(rows)

    def _pulled(self, users: _Used) -> Iterator[Image]:
        """Images of the OCI store that came or were used through us, or that an instance uses."""
        used = {name.removeprefix(OCI_PREFIX) for name in users if name.startswith(OCI_PREFIX)}
        for reference in sorted({*self._store.references(), *used}):
            try:
                image = self._oci_image(reference, users)
            except Unreachable:
                return
            except TriuneError:
                continue
            if image is not None:
                yield image

    def _oci_image(self, reference: str, users: _Used) -> Image | None:
        oci = self._forms.oci_store()
        facts = oci.inspect(reference) if oci is not None else None
        if facts is None:
            return None
        created = facts.get("created")
        size = told_size(facts)
        return Image(
            name=OCI_PREFIX + reference,
            digest=str(facts.get("digest") or facts["id"]),
            created=created if isinstance(created, datetime) else _parsed(created),
            source=f"pulled {reference}",
            size=size,
            forms={FormKind.OCI: OciForm(id=str(facts["id"]), reference=reference)},
            form_sizes={FormKind.OCI: size},
            used_by=tuple(users.get(OCI_PREFIX + reference, ())),
        )

    def _not_found(self, name: str) -> NotFound:
        known = [*self._store.names(), *(OCI_PREFIX + reference for reference in self._store.references())]
        near = difflib.get_close_matches(name, [*known, *RELEASES], n=1, cutoff=0.6)
        if name in RELEASES:
            hint = f"Build it: triune image build {name}"
        elif near and near[0] in known:
            hint = f"Did you mean {near[0]}?"
        elif near:
            hint = f"Did you mean {near[0]}? Build it: triune image build {near[0]}"
        else:
            hint = f"See triune image list; build {', '.join(RELEASES)}, or pull {OCI_PREFIX}NAME[:TAG]."
        return NotFound("image_not_found", f"there is no image {name}", hint=hint)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._lock:
            if name in self._busy:
                raise Conflict(
                    "image_busy", f"{name} is being built, imported or removed", hint="Wait until that has ended."
                )
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(name)

    @contextmanager
    def _space_watched(self, what: str) -> Iterator[None]:
        """Tell a full disk from other failures: the tools that hit it only say that they failed."""
        root = self._store.root
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise Failed(
                    "image_failed", f"{what} failed: {error.strerror} ({error.filename})", hint="See the daemon's log."
                ) from error
            raise no_space(root, what, None, shutil.disk_usage(root).free) from error


def _parsed(text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
