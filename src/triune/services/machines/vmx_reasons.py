"""Why a line of a VMX is not carried over: one sentence for each kind of key."""

from __future__ import annotations

import re

_HOST = "it is bookkeeping of VMware's hosts"
_OWN = "it is a device of VMware's own, which a system does without"
_SLOT = "the board here has places of its own"
_CONSOLE = "it is about the window and the console of VMware's programs"
_HOT = "CPUs and memory stay as they are while it runs"
_LIMIT = "shares and limits of VMware's scheduler don't count here; set others: triune set"

_REASONS: tuple[tuple[str, str], ...] = (
    (r"\.encoding|config\.version|virtualhw\..*|extendedconfigfile|vmx\..*", "it is about VMware's file itself"),
    (r".*\.pcislotnumber|pcibridge\d+\..*|.*\.etherslot\w*|svga\.pcislot.*", _SLOT),
    (r"vmci\d+\..*|vmxstats\..*|hpet\d*\..*|vsock.*|vwdk.*|.*\.filter\d*\..*", _OWN),
    (r"nvram", "VMware's firmware variables have a format of their own; the firmware here begins with fresh ones"),
    (r"sched\.(cpu|mem)\..*|sched\..*\.(shares|throughputcap|bandwidthcap|iops.*)|cpuid\.numsmt|numa\..*", _LIMIT),
    (r"sched\.swap\..*|sched\..*|migrate\..*|vmotion\..*|checkpoint\..*|replay\..*|ftcpt\..*", _HOST),
    (r"uuid\.location|vc\.uuid|uuid\.action|instanceuuid|cleanshutdown|softpoweroff|vm\.genid\w*|hbr_filter.*", _HOST),
    (r"monitor\..*|monitor_control\..*|mainmem\..*|prefvm.*", _HOST),
    (r"mem\.hotadd|vcpu\.hotadd|vcpu\.hotremove|memory\.hotadd.*", _HOT),
    (r"mem\..*|vcpu\..*|log\..*|logging|vmxstats.*|debug.*|workingdir|svga\.guestbackedprimaryaware", _HOST),
    (r"cpuid\..*|hypervisor\.cpuid.*|vhv\..*|vvtd\..*|featmask\..*|guestcpuid.*|hostcpuid.*|usercpuid.*|evcmask.*|"
     r"featurecompat.*|monitor\.phys_bits_used", "the CPU here shows what this host's CPU (or QEMU's) can do"),
    (r"tools\..*|toolscripts\..*|toolsinstallmanager\..*|time\.synchronize.*|vmtools.*",
     "it is for VMware's tools; the QEMU guest agent takes their place"),
    (r"guestinfo\..*|guestos\..*|answer\..*|annotation|displayname\..*", "it is a note that nothing here reads"),
    (r"isolation\..*|gui\..*|remotedisplay\..*|mks\..*|unity\..*|msg\..*|hgfs\..*|sharedfolder.*|powertype\..*",
     _CONSOLE),
    (r"svga\..*|vga\..*", "the display here is a plain VGA"),
    (r"floppy\d+\..*", "a floppy drive has no counterpart; give its files to the machine in another way"),
    (r"sound\..*", "there is no sound card here"),
    (r"usb.*|ehci\..*|xhci\..*", "the machine gets an xHCI of its own, and no device of a host is passed through"),
    (r"parallel\d+\..*", "a parallel port has no counterpart"),
    (r"pcipassthru.*", "a device of the old host can't be passed through here"),
    (r"smc\..*|board-id.*|hw\.model.*|smbios\..*|serialnumber\..*", "the firmware's tables are QEMU's"),
    (r"bios\..*|firmware\..*|efi\..*|uefi\..*", "the firmware here has no such switch"),
    (r"rtc\..*|timetracker\..*", "the clock here follows the host's"),
    (r"disk\.enableuuid", "every disk here shows an identity already"),
    (r"snapshot\..*|.*\.redo|.*\.undopoint.*|rollback\..*", "the machine gets its newest state, and no snapshots"),
    (r"ctkenabled|.*\.ctkenabled", "changed blocks are tracked here without it: triune backup"),
    (r"vlance\..*|ethernet\d+\..*", "the card here has no such switch"),
    (r"(scsi|sata|ide|nvme)\d+(:\d+)?\..*", "the disk or its controller here has no such switch"),
    (r"serial\d+\..*", "a serial port here is a terminal: triune console"),
    (r"vtpm\..*|managedvm\..*|encryption\..*|vmcrypt.*", "it belongs to VMware's encryption"),
)  # fmt: skip
_KNOWN = tuple((re.compile(pattern), reason) for pattern, reason in _REASONS)
OTHERWISE = "nothing here is like it"


def reason(key: str) -> str:
    """Why this key (in small letters) is of no use here."""
    return next((why for pattern, why in _KNOWN if pattern.fullmatch(key)), OTHERWISE)
