"""The `cloning` facet: a copy of a container under a new identity, sharing blocks with it where the file system can.

The copy is in the same pool and has the same settings, volumes and host folders, but no published ports. With
`idmap=isolated` it gets an id range of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from triune.domain.errors import TriuneError
from triune.domain.names import instance_name
from triune.domain.operation import Progress
from triune.domain.snapshot import Consistency
from triune.engines.base import ClonePlan
from triune.engines.lxc import claims, holding, layers, points, renewal, restoring, roots, seed, spec
from triune.engines.lxc import mark as marks
from triune.engines.lxc import settings as settings_module
from triune.engines.lxc.client import Client
from triune.engines.lxc.lifecycle import Lifecycle
from triune.engines.lxc.mark import Mark
from triune.engines.lxc.snapshots import managed
from triune.host.idmap import IdRange


class LxcCloning:
    """Clones of managed containers."""

    live = True

    def __init__(self, client: Client, lifecycle: Lifecycle) -> None:
        self._client = client
        self._lifecycle = lifecycle

    def clone(self, plan: ClonePlan, progress: Progress) -> None:
        """Make it, stopped. Steps: lxc-copy, lxc-mount, lxc-config."""
        instance_name(plan.new)
        folder, mark = managed(self._client, plan.name)
        restoring.settle(folder, mark)
        target = self._client.folder(plan.new)
        claims.require_free(target)
        point = points.require(mark.data(folder), plan.snapshot, plan.name) if plan.snapshot else None
        self._lifecycle.delete(plan.new)
        try:
            with roots.telling(target):
                claims.claim(target)
                self._build(plan, folder, mark, point, progress)
        except BaseException:
            with suppress(TriuneError, OSError):
                self._lifecycle.delete(plan.new)
            raise

    def _build(self, plan: ClonePlan, folder: Path, mark: Mark, point: Path | None, progress: Progress) -> None:
        target = self._client.folder(plan.new)
        then = (marks.read(point) if point else None) or mark
        config = ((point or folder) / "config").read_text()
        if point:
            config = restoring.merged(config, (folder / "config").read_text())
        with layers.locked(mark.state_dir):
            new = self._mark(plan, replace(mark, settings=then.settings, disk=then.disk))
            marks.write(target, new)
            layers.mount_lower(new)
        progress.step("lxc-copy", f"copying {plan.name}")
        layers.make_folders(target, new)
        if point:
            _copy(point / points.TREE, target, new, mark.id_map, progress.check)
        else:
            with holding.held(self._client, plan.name) as hold:
                if new.whole and hold.consistency is not Consistency.STOPPED:
                    holding.write_out(mark.own(folder))
                _copy(mark.own(folder), target, new, mark.id_map, progress.check)
        if new.whole:
            roots.set_limit(new.own(target), new.disk)
        claims.write_hooks(target)
        progress.step("lxc-mount", "giving it an identity")
        if renewal.can_wait(new.own(target), new):
            renewal.put_off(target, plan.name, mark)
        else:
            layers.mount_root(target, new)
            seed.reseed(new.writable(target), plan.new, plan.name, mark, new)
            marks.write(target, replace(new, seeded=True), durable=False)
        progress.step("lxc-config", "writing its configuration")
        items = spec.id_items(new.id_map)
        for index, card in enumerate(new.cards):
            items += spec.card_items(index, card)
        text = restoring.readdressed(spec.renamed(config, folder, target), items)
        marks.write_file(target / "config", text.encode(), 0o644, durable=False)

    def _mark(self, plan: ClonePlan, mark: Mark) -> Mark:
        given = settings_module.parse(mark.settings)
        ids = claims.own_range(self._client.path) if given.isolated else mark.id_map
        return replace(
            mark,
            created=plan.created,
            lower=mark.lower if mark.whole else layers.lower_path(mark.state_dir, mark.tree, ids),
            id_map=ids,
            machine_id=plan.machine_id,
            cards=tuple(spec.cards(plan.nics)),
            publish=(),
            seeded=False,
        )


def _copy(source: Path, target: Path, mark: Mark, before: IdRange | None, check: Callable[[], None]) -> None:
    own = mark.own(target)
    if mark.whole:
        roots.copy(source, own, check)
    elif before == mark.id_map or before is None or mark.id_map is None:
        roots.copy(source, own, check)
        # What overlayfs tells one layer from another by.
        with suppress(OSError):
            os.removexattr(own, "trusted.overlay.uuid")
    else:
        shift = IdRange(base=mark.id_map.base, count=mark.id_map.count, inside=before.base)
        roots.copy_shifted(source, own, shift, target / roots.SHIFTED, check)
