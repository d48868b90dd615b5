"""Long-running work: records, progress, cancel, locks, undo, events."""

from triune.services.operations.events import Event, Events, Subscription
from triune.services.operations.runner import Operations
from triune.services.operations.task import Task

__all__ = ["Event", "Events", "Operations", "Subscription", "Task"]
