"""The disk, kernel and initial RAM disk of the guests that tests boot many times.

An emulated CPU has them up in a fifth of what systemd needs, and they have all that the engine relies on: the agent,
Perl, the command ports, a login on the serial console, ends by the agent and by the power button. Guests with systemd
are those of the image debian/12.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "virtio_balloon", "button", "evdev")
_NOT_NEEDED = ("boot", "usr/share/doc", "usr/share/locale", "usr/share/man")

# In the order of their needs, without udev: what there is is known. A disk that never comes is waited for.
_INITRD = """\
#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in {modules}; do busybox insmod /$module; done
read -r words < /proc/cmdline
for word in $words; do case $word in root=*) root=${{word#root=}} ;; esac; done
while [ ! -b $root ]; do busybox sleep 0.05; done
busybox mount -t ext4 $root /root
busybox mount --move /dev /root/dev
busybox umount /proc
exec busybox switch_root /root /sbin/init
"""

_INIT = """\
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs security /sys/kernel/security
[ ! -d /sys/firmware/efi/efivars ] || mount -t efivarfs efivars /sys/firmware/efi/efivars
mount -t tmpfs -o mode=755 run /run
mkdir -p /dev/pts /dev/shm /dev/virtio-ports /run/lock
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        systemd.hostname=*) echo ${word#*=} > /proc/sys/kernel/hostname ;;
        systemd.machine_id=*) echo ${word#*=} > /etc/machine-id ;;
    esac
done
for port in /sys/class/virtio-ports/*; do
    read -r name < $port/name && ln -s ../${port##*/} /dev/virtio-ports/$name
done
exec busybox init
"""

_INITTAB = """\
::respawn:/usr/sbin/qemu-ga
::respawn:/bin/busybox acpid -d -c /etc/acpi -e /dev/input/event0
ttyS0::respawn:/bin/busybox getty -L ttyS0 115200 vt100
::shutdown:/bin/busybox sync
::shutdown:/bin/busybox umount -a -r
"""

_OFF = "#!/bin/sh\nkill -USR2 1\n"


def build(tree: Path, folder: Path, size: int) -> None:
    """Leave vmlinuz, initrd.img and base.qcow2 (`size` bytes) in the folder, made of a tree of Debian."""
    copy = folder / "tree"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True, timeout=120)
    shutil.copy(copy / "vmlinuz", folder / "vmlinuz")
    _initrd(copy, folder / "initrd.img")
    for path in _NOT_NEEDED:
        shutil.rmtree(copy / path)
    _program(copy / "sbin/init", _INIT)
    _program(copy / "sbin/shutdown", _OFF)
    _program(copy / "etc/acpi/PWRF/00000080", _OFF)
    (copy / "etc/inittab").write_text(_INITTAB)
    raw = folder / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(size)
    # Nothing is left for the guest's kernel to write when it first has time.
    whole = ["-E", "lazy_itable_init=0,lazy_journal_init=0"]
    subprocess.run(["mke2fs", "-q", "-t", "ext4", *whole, "-d", str(copy), str(raw)], check=True, timeout=200)
    disk = folder / "base.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(disk)], check=True, timeout=200)
    raw.unlink()
    shutil.rmtree(copy)


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _initrd(tree: Path, target: Path) -> None:
    """An initial RAM disk of the tree's busybox and modules; not compressed, which an emulated CPU would pay for."""
    root = tree / "initrd"
    for part in ("bin", "dev", "proc", "root"):
        (root / part).mkdir(parents=True)
    needed = ["/bin/busybox", *(word for word in _inside(tree, "ldd", "/bin/busybox").split() if word[0] == "/")]
    for path in needed:
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / path[1:], root / path[1:])
    (kernel,) = (path.name for path in (tree / "lib/modules").iterdir())
    depends = _inside(tree, "modprobe", "--all", "--show-depends", "--set-version", kernel, *_MODULES)
    modules = list(dict.fromkeys(line.split()[1] for line in depends.splitlines() if line.startswith("insmod")))
    for module in modules:
        shutil.copy(tree / module[1:], root / Path(module).name)
    _program(root / "init", _INITRD.format(modules=" ".join(Path(module).name for module in modules)))
    with target.open("wb") as file:
        pack = ["sh", "-c", "cd /initrd && find . | busybox cpio -o -H newc"]
        subprocess.run(["chroot", str(tree), *pack], check=True, stdout=file, stderr=subprocess.DEVNULL, timeout=60)
    shutil.rmtree(root)


def _inside(tree: Path, *argv: str) -> str:
    return subprocess.run(["chroot", str(tree), *argv], check=True, capture_output=True, text=True, timeout=60).stdout
