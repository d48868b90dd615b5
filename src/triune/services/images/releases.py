"""The distributions that can be built, as data. A mirror given with the build wins over the default here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import NotFound, Unsupported
from triune.host import apt
from triune.services.images.options import BuildOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """`epoch` is when the release came out (seconds): the date of what a build makes up itself.

    `sources` are used where the host is another distribution; `archives` are the last folders of the addresses that
    are known to be this distribution's archive.
    """

    name: str
    distribution: str
    suite: str
    epoch: int
    keyring: Path
    keyring_package: str
    archives: frozenset[str]
    sources: tuple[apt.Source, ...]
    packages: tuple[str, ...]
    kernels: dict[str, str]


_BASE = (
    *("systemd", "systemd-sysv", "systemd-resolved", "systemd-boot", "systemd-boot-efi", "dbus", "udev", "kmod"),
    *("iproute2", "iputils-ping", "netbase", "ca-certificates", "procps", "busybox", "zstd", "qemu-guest-agent"),
)
_KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def _debian(name: str, suite: str, epoch: int, *more: str) -> Release:
    return Release(
        name=name,
        distribution="debian",
        suite=suite,
        epoch=epoch,
        keyring=_KEYRING,
        keyring_package="debian-archive-keyring",
        archives=frozenset({"debian", "debian-security"}),
        sources=(
            apt.Source(
                uris=("http://deb.debian.org/debian",),
                suites=(suite, f"{suite}-updates"),
                components=("main",),
                signed_by=str(_KEYRING),
            ),
            apt.Source(
                uris=("http://deb.debian.org/debian-security",),
                suites=(f"{suite}-security",),
                components=("main",),
                signed_by=str(_KEYRING),
            ),
        ),
        packages=(*_BASE, *more),
        kernels=_KERNELS,
    )


RELEASES = {
    release.name: release
    for release in (
        _debian("debian/12", "bookworm", 1686355200),
        _debian("debian/13", "trixie", 1754697600, "systemd-repart"),
    )
}


def release(name: str) -> Release:
    """The release of this name. Raises NotFound("unknown_release")."""
    try:
        return RELEASES[name]
    except KeyError:
        raise NotFound(
            "unknown_release",
            f"there is no recipe to build {name}",
            hint=f"Build one of {', '.join(RELEASES)}, or import it: triune image import FILE --name {name}",
        ) from None


def sources_text(chosen: Release, options: BuildOptions) -> str:
    """The package sources of a build, in deb822 form: given, or the host's own, or the release's default."""
    if options.sources is not None:
        return options.sources.read_text()
    distribution, codename = apt.host_release()
    found: list[apt.Source] = []
    if distribution == chosen.distribution and codename:
        found = apt.archive_sources(apt.host_sources(), codename=codename, suite=chosen.suite, folders=chosen.archives)
    if not found:
        found = list(chosen.sources)
        if not chosen.keyring.exists():
            raise Unsupported(
                "keyring_missing",
                f"the keys that sign {chosen.name} are not on this host",
                hint=f"Run: apt install {chosen.keyring_package}",
            )
    if options.mirror is not None:
        main = apt.Source(
            uris=(options.mirror,),
            suites=(chosen.suite, f"{chosen.suite}-updates"),
            components=("main",),
            signed_by=str(chosen.keyring),
        )
        # Security updates come from their own archive, which mirrors seldom hold.
        found = [main, *(source for source in found if all(name.endswith("-security") for name in source.suites))]
    return "\n".join(source.stanza() for source in found)
