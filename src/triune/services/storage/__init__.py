"""Pools and volumes: where disks and trees live."""

from triune.services.storage.pools import PoolOptions, Pools
from triune.services.storage.records import Use
from triune.services.storage.service import Storage
from triune.services.storage.transfer import TransferOptions
from triune.services.storage.volumes import VolumeOptions, Volumes

__all__ = ["PoolOptions", "Pools", "Storage", "TransferOptions", "Use", "VolumeOptions", "Volumes"]
