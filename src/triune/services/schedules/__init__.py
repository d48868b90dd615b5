"""What is to be done again and again: named schedules, kept in the store, run by one thread."""

from triune.services.schedules.schedule import Schedule, schedule_name
from triune.services.schedules.service import Schedules

__all__ = ["Schedule", "Schedules", "schedule_name"]
