"""VMFS, VMware's cluster file system: versions 3, 5 and 6 and the local kind (VMFS-L), read-only.

The format was measured on volumes that ESXi hosts wrote. All integers are little-endian. Each structure has a module
that parses bytes into frozen dataclasses and raises `Damaged`, whatever the bytes are; nothing here trusts a length, a
count or a place that a volume names.

    damaged      the error
    geometry     sizes that follow from a volume's version and parameters
    lvm          the device header, volume table and physical extents before a volume
    space        a volume's bytes, joined from its extents
    assembly     logical volumes from their devices
    superblock   the file system's descriptor
    lock         what every descriptor and cluster begins with; names its own place
    address      what points to blocks, sub-blocks, pointer blocks and descriptors
    resource     the files that hold these: `.fdc.sf`, `.sbc.sf`, `.pbc.sf` and more
    allocation   which blocks are in use, and whose they are
    descriptor   a file's metadata
    resolver     where blocks and resources are
    blocks       a file's bytes, by way of its block map
    directory    both directory formats
    heartbeat    the slots of the hosts
    journal      after-images of what changed last
    volume       a healthy volume

Words: an FD is a file descriptor, FB a file block, SB a sub-block, PB a pointer block, LFB a large file block.
"""
