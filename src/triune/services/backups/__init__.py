"""Backups of instances of every engine in one repository; see `service.py`."""

from triune.services.backups.request import BackupSettings, CreateRequest, Keep, Place, RestoreRequest
from triune.services.backups.service import Backups
from triune.services.backups.stored import Stored

__all__ = ["BackupSettings", "Backups", "CreateRequest", "Keep", "Place", "RestoreRequest", "Stored"]
