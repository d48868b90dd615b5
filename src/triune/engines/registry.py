"""The one list of engines. Their order is the order of preference where several fit a launch equally well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Invalid
from triune.engines.base import Engine
from triune.host import rootless

_ALWAYS = ("lxc", "kvm", "docker")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Where the engines are, and where their instances' own files go.

    `rootless_url` is that of a second Docker engine, one without root.
    `fake` names engines to be replaced by the in-memory one: for the console's tests and for fault injection.
    """

    state_dir: Path
    lxc_path: Path = Path("/var/lib/lxc")
    docker_url: str = "unix:///var/run/docker.sock"
    rootless_url: str = f"unix://{rootless.PLACE.socket}"
    libvirt_uri: str = "qemu:///system"
    enabled: tuple[str, ...] = _ALWAYS
    fake: tuple[str, ...] = ()


def _lxc(settings: EngineSettings) -> Engine:
    from triune.engines.lxc.engine import LxcEngine

    return LxcEngine(settings.lxc_path, state_dir=settings.state_dir / "lxc")


def _kvm(settings: EngineSettings) -> Engine:
    from triune.engines.kvm.engine import KvmEngine

    return KvmEngine(settings.state_dir / "kvm", uri=settings.libvirt_uri)


def _docker(settings: EngineSettings) -> Engine:
    from triune.engines.docker.engine import DockerEngine

    return DockerEngine(settings.docker_url, state_dir=settings.state_dir / "docker")


def _rootless(settings: EngineSettings) -> Engine:
    from triune.engines.docker.rootless import RootlessEngine

    folder = settings.state_dir / "rootless"
    return RootlessEngine(settings.rootless_url, images_from=settings.docker_url, state_dir=folder)


_ENGINES: Mapping[str, Callable[[EngineSettings], Engine]] = {
    "lxc": _lxc,
    "kvm": _kvm,
    "docker": _docker,
    "rootless": _rootless,
}


def usual() -> tuple[str, ...]:
    """Those that are enabled unless the configuration says otherwise: the rootless one where setup made it."""
    return (*_ALWAYS, "rootless") if rootless.installed() else _ALWAYS


def engines(settings: EngineSettings) -> dict[str, Engine]:
    """All enabled engines by name, in order of preference. Making one does not yet speak to its technology.

    Raises Invalid("unknown_engine").
    """
    for name in (*settings.enabled, *settings.fake):
        if name not in _ENGINES:
            raise Invalid(
                "unknown_engine", f"there is no engine {name!r} to enable", hint=f"Engines are {', '.join(_ENGINES)}."
            )
    made: dict[str, Engine] = {}
    for name in settings.enabled:
        if name in settings.fake:
            from triune.engines.fake.engine import FakeEngine

            made[name] = FakeEngine(name)
        else:
            made[name] = _ENGINES[name](settings)
    return made
