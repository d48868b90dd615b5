"""Reading what VMware left: volumes, disks and machines. It needs neither the daemon nor root."""
