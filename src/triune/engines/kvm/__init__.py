"""Virtual machines on libvirt and QEMU."""
