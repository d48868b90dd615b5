"""How far operations are: a live display on a terminal, a line for each step elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import threading

from triune.cli.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import RenderableType
    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID

    from triune.sdk.types import OperationRow


class Progress:
    """Shows several operations at once, each under a name. Safe to use from several threads.

    `steps` False keeps it quiet where there is no terminal, `quiet` everywhere.
    """

    def __init__(self, *, steps: bool = True, quiet: bool = False) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._steps = steps and not quiet
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Callable[[OperationRow], None]:
        """What to give to `operations.wait` as `progress`."""

        def told(operation: OperationRow) -> None:
            if self._live:
                self.update(name, operation["text"], operation["fraction"])
                return
            for step in operation["steps"][self._seen.get(name, 0) :]:
                self.update(name, step["text"])
            self._seen[name] = len(operation["steps"])

        return told

    def update(self, name: str, text: str, fraction: float | None = None) -> None:
        """Tell how far it is."""
        line = clean(text)
        if not line:
            return
        with self._lock:
            if self._live:
                self._draw(name, line, fraction)
            elif self._steps:
                print(f"{name}: {line}", file=sys.stderr, flush=True)

    def print(self, text: str) -> None:
        """Print a line to stderr without disturbing the display."""
        with self._lock:
            if self._bars is not None:
                from rich.text import Text

                self._bars.console.print(Text.from_ansi(text))
            else:
                print(text, file=sys.stderr, flush=True)

    def done(self, name: str) -> None:
        """Take it off the display."""
        with self._lock:
            task = self._tasks.pop(name, None)
            if self._bars is not None and task is not None:
                self._bars.remove_task(task)

    def _draw(self, name: str, line: str, fraction: float | None) -> None:
        bars = self._started()
        if name not in self._tasks:
            self._tasks[name] = bars.add_task(line, total=None, title=name)
        total = None if fraction is None else 1.0
        bars.update(self._tasks[name], description=line, total=total, completed=fraction or 0.0)

    def _started(self) -> Bars:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars
            from rich.text import Text

            class Share(ProgressColumn):
                """A bar where it is known how much is left; nothing else than the spinner where it is not."""

                bar = BarColumn(bar_width=24)

                def render(self, task: Task) -> RenderableType:
                    return Text() if task.total is None else self.bar.render(task)

            self._bars = Bars(
                SpinnerColumn(),
                TextColumn("{task.fields[title]}", style="bold", markup=False),
                TextColumn("{task.description}", markup=False),
                Share(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
        return self._bars

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the display."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
