#!/bin/sh
# Mounts the root of a container made by Triune where it is not mounted: after a reboot, lxc-start by hand needs it.
# liblxc passes LXC_ROOTFS_PATH; the first argument is the Python that Triune is installed in.
root="${LXC_ROOTFS_PATH#dir:}"
if mountpoint -q "$root"; then
	exit 0
fi
exec 2>&1
if [ ! -x "$1" ]; then
	echo "The root of $LXC_NAME is not mounted, and Triune's Python ($1) is gone: install Triune again."
	exit 1
fi
exec "$1" -I -m triune.engines.lxc.mount "${root%/rootfs}"
