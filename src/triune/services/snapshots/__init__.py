"""Points in time of instances, and copies of them."""

from triune.services.snapshots.clone import Cloner, CloneRequest
from triune.services.snapshots.scheduled import scheduled
from triune.services.snapshots.service import SnapshotRequest, Snapshots

__all__ = ["CloneRequest", "Cloner", "SnapshotRequest", "Snapshots", "scheduled"]
