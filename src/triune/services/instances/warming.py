"""Warm starts: instances that begin as a copy of a booted, idle template, and the making of those templates.

The first launch of an image boots as ever; its template is made afterwards, as an operation of its own
(`image-template`), so that nobody waits for it. What can't start warm boots, and the progress says why.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from triune.domain.errors import Failed, Invalid, TriuneError, Unsupported
from triune.domain.instance import InstanceSpec
from triune.domain.operation import Operation, Progress
from triune.engines.base import Engine, LaunchPlan, Templates
from triune.services.images import Images
from triune.services.operations import Operations, Task

log = logging.getLogger(__name__)

KIND = "image-template"
_LOCK = "templates"  # one at a time: it is work in the background


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSettings:
    """The table `templates` of the daemon's settings. `automatic`: make one after the first launch of an image."""

    automatic: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmRequest:
    """Which image to keep warm, and for instances of which size. `engine` "": the first that can."""

    image: str
    engine: str = ""
    cpus: float | None = None
    memory: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


class Warming:
    """Templates of all engines that have them."""

    def __init__(
        self, engines: Mapping[str, Engine], images: Images, operations: Operations, settings: TemplateSettings
    ) -> None:
        self._engines = engines
        self._images = images
        self._operations = operations
        self._settings = settings
        operations.handlers["template"] = self._sweep_recorded

    def launch(self, engine: Engine, plan: LaunchPlan, progress: Progress) -> bool:
        """Start the plan from a template. False: it is to boot; the progress has the reason."""
        templates = engine.templates
        if templates is None:
            return False
        if reason := templates.why_not(plan):
            progress.step("cold", f"booting {plan.spec.name}: {reason}")
            return False
        if not templates.ready(plan):
            return False
        try:
            templates.launch(plan, progress)
        except Failed as error:
            if error.code != "warm_failed":
                raise
            log.warning("%s", error.message)
            progress.step("cold", f"booting {plan.spec.name}: {error.message}")
            return False
        return True

    def launched(self, engine: Engine, plan: LaunchPlan) -> None:
        """It booted: make the template for the next one, in the background. Never raises."""
        templates = engine.templates
        if templates is None or not self._settings.automatic:
            return
        try:
            if not templates.why_not(plan) and not templates.ready(plan):
                self._submit(engine, templates, plan)
        except TriuneError as error:  # another is being made, or the engine is away: the next launch tries again
            log.info("no template of %s is made now: %s", plan.image, error.message)

    def warm(self, request: WarmRequest) -> Operation:
        """Make the template of an image now. Raises Invalid, NotFound, Unsupported, Conflict."""
        engine, templates = self._chosen(request)
        self._images.require(request.image, engine.form_kind)

        def plan(progress: Progress) -> LaunchPlan:
            form, image = self._images.form(request.image, engine.form_kind, progress)
            spec = InstanceSpec(
                name="template",
                image=image,
                engine=engine.name,
                cpus=request.cpus,
                memory=request.memory,
                settings=request.settings,
                network=None,
            )
            made = LaunchPlan(
                spec=spec, form=form, image=image, created=datetime.now(UTC), machine_id=secrets.token_hex(16)
            )
            engine.check(made)
            return made

        def work(task: Task) -> dict[str, Any]:
            return self._make(engine, templates, plan(task), task)

        return self._operations.submit(KIND, f"images/{request.image}", work, locks=[_LOCK])

    def list(self) -> Sequence[Mapping[str, object]]:
        """`{engine, image, size, created, ready, why}` of each template."""
        rows: list[Mapping[str, object]] = []
        for engine in self._engines.values():
            if engine.templates is not None:
                rows.extend({"engine": engine.name, **row} for row in engine.templates.list())
        return rows

    def remove(self, image: str) -> None:
        """Remove the templates of an image. Gone: succeed."""
        for engine in self._engines.values():
            if engine.templates is not None:
                engine.templates.remove(image)

    def _submit(self, engine: Engine, templates: Templates, plan: LaunchPlan) -> Operation:
        return self._operations.submit(
            KIND,
            f"images/{plan.image}",
            lambda task: self._make(engine, templates, plan, task, aside=True),
            locks=[_LOCK],
        )

    def _make(
        self, engine: Engine, templates: Templates, plan: LaunchPlan, task: Task, *, aside: bool = False
    ) -> dict[str, Any]:
        task.intend("template", engine=engine.name)
        task.step("template", f"making a template of {plan.image}")
        templates.make(plan, task, aside=aside)
        size = sum(int(str(row["size"])) for row in templates.list() if row["image"] == plan.image)
        return {"name": plan.image, "engine": engine.name, "size": size}

    def _chosen(self, request: WarmRequest) -> tuple[Engine, Templates]:
        if request.engine not in ("", "auto"):
            if request.engine not in self._engines:
                raise Invalid(
                    "unknown_engine",
                    f"there is no engine {request.engine!r}",
                    hint=f"Engines are {', '.join(self._engines)}.",
                )
            engine = self._engines[request.engine]
            if engine.templates is None:
                reason = engine.probe().missing.get("templates", "this engine has no such ability")
                raise Unsupported(
                    "facet_missing", f"{engine.title} keeps nothing warm: {reason}", hint="See: triune doctor"
                )
            return engine, engine.templates
        kinds = self._images.kinds(request.image)
        for engine in self._engines.values():
            if engine.templates is not None and engine.form_kind in kinds:
                return engine, engine.templates
        raise Unsupported(
            "facet_missing",
            f"no engine of this host can keep {request.image} warm",
            hint="Virtual machines can; see: triune doctor",
        )

    def _sweep_recorded(self, data: Mapping[str, Any]) -> None:
        templates = self._engines[data["engine"]].templates
        if templates is not None:
            templates.sweep()
