"""Importing what was made elsewhere: disks, installers, root tarballs, OCI archives.

The file is copied first (it may change while it is read), and only the copy is looked at. Formats are declared or
unmistakable; a disk that points to another file is refused; qemu-img runs under limits and only on what was checked.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from triune.disks import qcow2, vmdk, vmdk_grains
from triune.disks.detect import COMPRESSED, Content, Detected, detect
from triune.domain.errors import Denied, Invalid, NotFound
from triune.domain.operation import Progress
from triune.domain.units import format_size
from triune.host.run import run
from triune.services.images.archive import find_init, has_program, opened, unpack
from triune.services.images.build import TREE
from triune.services.images.manifest import DiskFiles, Manifest, TreeFiles
from triune.services.images.options import ImportOptions

_CHUNK = 4 << 20
_FICLONE = 0x40049409  # include/uapi/linux/fs.h
_DISKS = {Content.QCOW2: "qcow2", Content.VMDK: "vmdk"}
_RECOGNISED = {Content.ISO: "iso", Content.TAR: "tree", **_DISKS}
# Layers come before manifest.json: in blobs/, or (Docker before 25) in folders of their own.
_OF_AN_IMAGE = re.compile(r"blobs/sha256|[0-9a-f]{64}(?:\.json|/(?:VERSION|json|layer\.tar))?/?$", re.ASCII)
_ENOUGH = 1 << 30
_HINT_RAW = "If it is a raw disk, say so: --format raw."


class Space(Protocol):
    """Where something is imported to."""

    def require_space(self, needed: int, what: str) -> None:
        """Raise Failed where so many bytes do not fit; `what` begins the sentence."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The copy of a file in our own folder."""

    path: Path
    size: int
    sha256: str


def copy_in(space: Space, source: Path, work: Path, options: ImportOptions, progress: Progress) -> Copied:
    """Copy the file (sharing its blocks where the file system can) and compute its checksum."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("file_not_found", f"there is no file {source}", hint="Check the path.") from None
    except OSError as error:
        raise Invalid("unreadable", f"{source} can't be read: {error.strerror}", hint="Check the file.") from None
    with os.fdopen(fd, "rb", buffering=0) as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise Invalid("not_a_file", f"{source} is not a regular file", hint="Give a file.")
        if info.st_size == 0:
            raise Invalid("empty_file", f"{source} is empty", hint="Fetch or export it again.")
        space.require_space(min(info.st_size, info.st_blocks * 512) + (64 << 20), f"Importing {source.name}")
        target = work / "source"
        sha256, size = _copy(file, target, info.st_size, progress)
    if options.sha256 is not None and sha256 != options.sha256.lower():
        raise Invalid(
            "checksum_mismatch",
            f"{source} has the SHA-256 sum {sha256}, not {options.sha256.lower()}",
            hint="Fetch it again; if it is still another one, do not use it.",
        )
    return Copied(target, size, sha256)


def _copy(source: BinaryIO, target: Path, size: int, progress: Progress) -> tuple[str, int]:
    total = hashlib.sha256()
    count = 0
    with target.open("w+b") as out:
        try:
            fcntl.ioctl(out.fileno(), _FICLONE, source.fileno())
            cloned = True
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
                raise
            cloned = False
        reader = out if cloned else source
        while chunk := reader.read(_CHUNK):
            total.update(chunk)
            count += len(chunk)
            progress.report(min(1.0, count / size), f"read {format_size(count)} of {format_size(size)}")
            if cloned:
                continue
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        if not cloned:
            out.truncate(count)
    return total.hexdigest(), count


def decide(path: Path, options: ImportOptions) -> str:
    """The format: declared and not contradicted, or unmistakable. Raises Invalid."""
    with path.open("rb") as file:
        found = detect(file)
    declared = options.format
    actual = _recognised(path, found)
    if declared is None:
        if actual is None:
            raise Invalid(
                "format_undeclared",
                f"what the file is can't be told for sure: it looks like {_describe(found)}",
                hint=_HINT_RAW if found.content is Content.UNKNOWN else "Convert it to qcow2: qemu-img convert",
            )
        return actual
    # Nothing proves a file raw, but everything recognised proves that it is not.
    fits = actual == declared if declared != "raw" else found.content is Content.UNKNOWN
    if not fits:
        raise Invalid(
            "format_mismatch",
            f"the file is said to be {declared}, but it is {actual or _describe(found)}",
            hint="Leave --format out, or give the format it has.",
        )
    return declared


def _recognised(path: Path, found: Detected) -> str | None:
    if found.content in COMPRESSED or found.content is Content.TAR:
        return _archive_kind(path)
    return _RECOGNISED.get(found.content)


def _archive_kind(path: Path) -> str | None:
    """ "oci" for an OCI or docker-save archive, else "tree"; None for a compressed file that is no archive."""
    try:
        with opened(path, whole=False) as archive:
            names: list[str] = []
            for member in archive:
                names.append(member.name.removeprefix("./"))
                if names[-1] in ("oci-layout", "manifest.json", "index.json") or _OF_AN_IMAGE.match(names[-1]):
                    return "oci"
                if len(names) >= 64 or archive.position > _ENOUGH:
                    break
    except Invalid:
        return None if not _is_tar(path) else "tree"
    return "tree"


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        return detect(file).content is Content.TAR


def _describe(found: Detected) -> str:
    if found.content is Content.UNKNOWN:
        return f"a disk with a {found.partitions.upper()} partition table" if found.partitions else "nothing known"
    return f"a {found.content} file"


def import_disk(
    space: Space, copied: Copied, form: str, work: Path, options: ImportOptions, progress: Progress
) -> DiskFiles:
    """Check the disk and store it as qcow2."""
    progress.step("check", "checking the disk")
    size = checked_size(copied, form, options)
    space.require_space(copied.path.stat().st_blocks * 512 + (64 << 20), "Converting the disk")
    progress.step("convert", "storing the disk as qcow2")
    target = work / "disk.qcow2"
    _limited(
        ["qemu-img", "convert", "-f", form, "-O", "qcow2", "-o", "compat=1.1", copied.path, target],
        # Reading and packing take about a second of CPU time for each GiB; zeros of a lying size take less.
        cpu=600 + size // (64 << 20),
    )
    target.chmod(0o644)
    return DiskFiles(
        path=target.name,
        format="qcow2",
        virtual_size=size,
        size=target.stat().st_blocks * 512,
        firmware=options.firmware,
        agent=options.agent,
        cloud_init=options.cloud_init,
    )


def checked_size(copied: Copied, form: str, options: ImportOptions) -> int:
    """The virtual size of a disk, which must refer to no other file and not contradict itself."""
    declared = _check_references(copied.path, form, options)
    size = _virtual_size(copied.path, form)
    if form == "vmdk":
        _check_size(size, options)
        with copied.path.open("rb") as file:
            vmdk_grains.require_whole(file, copied.size)
    if declared and declared != size:
        raise Invalid(
            "corrupt_image",
            f"the {form} image contradicts itself about its size",
            hint="Fetch or export it again.",
        )
    _check_size(size, options)
    return size


def _check_references(path: Path, form: str, options: ImportOptions) -> int:
    """Refuse a disk that needs another file; return the virtual size its header declares, or 0."""
    with path.open("rb") as file:
        if form == "qcow2":
            header = qcow2.read_header(file)
            if header.encrypted:
                raise Invalid("encrypted_image", "the disk is encrypted", hint="Decrypt it first: qemu-img convert")
            if header.backing:
                raise _refused("backing_file_refused", "names a backing file")
            if header.external_data:
                raise _refused("backing_file_refused", "keeps its data in another file")
            _check_size(header.virtual_size, options)
            return header.virtual_size
        if form == "vmdk":
            info = vmdk.inspect(file)
            # A sparse header without a capacity makes readers follow the descriptor's file names instead.
            if info.kind == "descriptor" or (info.kind == "sparse" and _no_capacity(file)):
                raise _refused("extents_refused", "is a descriptor of other files")
            if info.parent:
                raise _refused("backing_file_refused", "is a snapshot of another disk")
            if any("/" in name or "\\" in name for name in info.extents) or len(info.extents) > 1:
                raise _refused("extents_refused", "points to other files")
            return 0
    return 0


def _no_capacity(file: BinaryIO) -> bool:
    file.seek(12)
    return file.read(8) == bytes(8)


def _refused(code: str, why: str) -> Denied:
    return Denied(
        code,
        f"the disk {why}; it could name any file of this host",
        hint="Make it one whole file where it comes from: qemu-img convert -O qcow2 DISK NEW.qcow2",
    )


def _check_size(size: int, options: ImportOptions) -> None:
    if not 0 < size <= options.max_size:
        raise Invalid(
            "too_large" if size else "corrupt_image",
            f"the disk claims a size of {format_size(size)}; allowed are up to {format_size(options.max_size)}",
            hint="Allow more with --max-size, if you trust it.",
        )


def _virtual_size(path: Path, form: str) -> int:
    """Ask qemu-img, under limits; for a qcow2 disk its consistency check must pass too."""
    if form == "raw":
        return path.stat().st_size // 512 * 512 or 512
    result = _limited(["qemu-img", "info", "--output=json", "-f", form, path])
    try:
        info = json.loads(result)
        size = int(info["virtual-size"])
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid("corrupt_image", "the disk's description can't be read", hint="Export it again.") from error
    if info.get("backing-filename") or info.get("full-backing-filename"):
        raise _refused("backing_file_refused", "names a backing file")
    if form == "qcow2":
        _limited(["qemu-img", "check", "-q", "-f", form, path], cpu=600)
    return size


def _limited(argv: list[str | Path], cpu: int = 30) -> bytes:
    """Run qemu-img with a limit on memory and CPU seconds; its refusal means the image is bad."""
    result = run(["prlimit", f"--as={4 << 30}", f"--cpu={cpu}", "--core=0", *argv], check=False, timeout=6 * 3600)
    if result.status != 0:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        if result.status == 127 or not Path("/usr/bin/qemu-img").exists():
            run([argv[0], "--version"])
        raise Invalid(
            "corrupt_image",
            f"the disk is damaged or not what it says: {said[-1][:300] if said else 'qemu-img refused it'}",
            hint="Fetch or export it again, and compare its checksum.",
        )
    return result.stdout


def import_iso(copied: Copied, work: Path, options: ImportOptions) -> DiskFiles:
    """Keep the installer as it is."""
    target = work / "installer.iso"
    copied.path.rename(target)
    target.chmod(0o644)
    return DiskFiles(
        path=None,
        format="qcow2",
        virtual_size=0,
        size=target.stat().st_blocks * 512,
        firmware=options.firmware,
        iso=target.name,
    )


def import_tree(
    space: Space, copied: Copied, work: Path, options: ImportOptions, progress: Progress
) -> tuple[TreeFiles, tuple[str, ...]]:
    """Unpack a root tarball. Returns the tree and notes."""
    progress.step("unpack", "unpacking the root tree")
    space.require_space(copied.size, "Unpacking the archive")
    private = work / "private"
    private.mkdir(mode=0o700)
    tree = work / TREE
    tree.mkdir(mode=0o755)
    done = unpack(copied.path, tree, options.max_size, progress)
    tree.chmod(0o755)
    init = find_init(tree)
    notes = []
    if done.skipped:
        notes.append(f"{done.skipped} device nodes were left out")
    if init is None:
        if not any(has_program(tree, path) for path in ("/bin", "/usr/bin")):
            raise Invalid(
                "no_root_tree",
                "the archive holds no root tree: neither an init nor a /bin",
                hint="Make it from the top of a root file system: tar -C / …",
            )
        notes.append("it has no init: it can run programs, but not as a system")
    files = TreeFiles(path=TREE, init=init or "", size=done.size, cloud_init=options.cloud_init)
    return files, tuple(notes)


def finished(
    name: str, copied: Copied, form: str, options: ImportOptions, *, tree: TreeFiles | None = None,
    disk: DiskFiles | None = None, archive: str | None = None, notes: tuple[str, ...] = (), source: str = "",
) -> Manifest:  # fmt: skip
    """The manifest of an imported image. Its digest covers the file, how it was read, and how it boots."""
    kept = {"format": form, "firmware": options.firmware, "agent": options.agent, "cloud_init": options.cloud_init}
    digest = hashlib.sha256(json.dumps([copied.sha256, kept], sort_keys=True).encode()).hexdigest()
    return Manifest(
        name=name,
        digest=digest,
        created=datetime.now(UTC),
        source=source,
        tree=tree,
        disk=disk,
        archive=archive,
        command=("sleep", "infinity"),
        options=kept,
        sha256=copied.sha256,
        notes=notes,
    )
