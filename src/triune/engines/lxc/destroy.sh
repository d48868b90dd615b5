#!/bin/sh
# Takes the mounts of a container made by Triune away before lxc-destroy removes its folder: it could not remove the
# root, and would empty the host's folders that are its volumes. The first argument is the Python of Triune; where
# that is gone, the container's own mounts are taken away all the same.
folder="${0%/*}"
if [ -x "$1" ]; then
	exec "$1" -I -m triune.engines.lxc.mount --away "$folder"
fi
for target in "$folder/rootfs" "$folder"/volumes/*; do
	while umount "$target" 2>/dev/null; do :; done
	if mountpoint -q "$target"; then
		exit 1
	fi
done
