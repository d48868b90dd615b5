"""The one list of engines. Their order is the order of preference where several fit a launch equally well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from triune.domain.errors import Invalid
from triune.engines.base import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Where the engines are, and where their instances' own files go.

    `fake` names engines to be replaced by the in-memory one: for the console's tests and for fault injection.
    """

    state_dir: Path
    lxc_path: Path = Path("/var/lib/lxc")
    docker_url: str = "unix:///var/run/docker.sock"
    libvirt_uri: str = "qemu:///system"
    enabled: tuple[str, ...] = ("lxc", "kvm", "docker")
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


_ENGINES: Mapping[str, Callable[[EngineSettings], Engine]] = {"lxc": _lxc, "kvm": _kvm, "docker": _docker}


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
