"""Machines that were made elsewhere: read from their descriptions (VMX, OVF), planned for this host, made, and started.

What the description and its disks say is read by whoever asks for the import, with their own rights; the daemon gets a
neutral description, and each disk's content over NBD.
"""

from triune.services.machines.service import DiskSource, ImportRequest, Machines

__all__ = ["DiskSource", "ImportRequest", "Machines"]
