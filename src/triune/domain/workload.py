"""A workload: what something that is to run demands of what runs it, each key declared once.

The declaration below is the parser, the JSON Schema (`triune advise --schema`), the questionnaire and the table in
docs/ADVISE.md. What is not said keeps its default, and no rule takes it for a demand.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from triune.domain.errors import Invalid
from triune.domain.units import parse_cpus, parse_duration, parse_size

Kind = Literal["flag", "word", "words", "text", "texts", "size", "cpus", "duration", "count"]

MOST_PARTS = 64
_MOST_ITEMS = 256
_LONGEST = 4096
_MOST = 10**9
_TOLD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key: `words` are what a word may be, the first is the default; None elsewhere means "not said"."""

    name: str
    kind: Kind
    meaning: str
    words: tuple[str, ...] = ()
    default: Any = None


def _flag(name: str, meaning: str) -> Key:
    return Key(name=name, kind="flag", meaning=meaning, default=False)


def _word(name: str, words: str, meaning: str) -> Key:
    each = tuple(words.split())
    return Key(name=name, kind="word", meaning=meaning, words=each, default=each[0])


def _texts(name: str, meaning: str) -> Key:
    return Key(name=name, kind="texts", meaning=meaning, default=())


_DECLARED = (
    Key(name="name", kind="text", meaning="its name, for the command", default=""),
    Key(name="description", kind="text", meaning="what it is, for people", default=""),
    Key(name="image", kind="text", meaning="what to launch, like debian/12 or docker:nginx", default=""),
    _word("os", "linux windows freebsd openbsd netbsd macos other", "its operating system"),
    Key(name="architecture", kind="text", meaning="its processor, like x86_64; the host's if not said", default=""),
    _flag("own_kernel", "needs a kernel, or a kernel's version or settings, other than the host's"),
    _texts("kernel_modules", "kernel modules that it loads itself"),
    _flag("pci_passthrough", "needs a PCI device of the host to itself"),
    _word("gpu", "none shared exclusive", "needs a GPU: one that others use too, or one of its own"),
    _texts("devices", "other devices of the host, like /dev/ttyUSB0"),
    _word("trust", "trusted tenants hostile", "whose code runs in it: ours, customers', or anybody's"),
    _flag("kernel_isolation", "must not share a kernel with others, by contract or by law"),
    _texts("compliance", "rules it is audited against, like pci-dss"),
    _flag("live_migration", "must move to another host without a stop"),
    _word("packaging", "unknown oci-image packages installer disk-image", "how the software comes"),
    _flag("init_system", "needs systemd or another init inside"),
    Key(name="services", kind="count", meaning="how many services run in one instance", default=1),
    _word(
        "administration", "unknown inside redeploy", "how it is changed: logging in, or replacing it by a new version"
    ),
    _word("state", "unknown stateless data system", "what must outlive an update: nothing, data, the whole system"),
    _word("lifetime", "permanent hours seconds", "how long one instance lives"),
    Key(name="start_within", kind="duration", meaning="how soon it must be there, like 500ms or 30s"),
    Key(name="instances", kind="count", meaning="how many of them run on one host", default=1),
    Key(name="cpus", kind="cpus", meaning="CPUs of each"),
    Key(name="memory", kind="size", meaning="memory of each, like 512MiB"),
    Key(name="disk", kind="size", meaning="disk of each, like 10GiB"),
    _word("io", "light sequential random fsync", "what it does to its disk"),
    _word("network", "light bulk latency packets", "what it asks of its network"),
    _word("network_role", "endpoint router firewall", "whether it serves, or moves and filters others' traffic"),
    _flag("ci", "is built and shipped by a pipeline"),
    _flag("portable", "the same image must run elsewhere too"),
    _flag("scale_out", "copies of it come and go with the load"),
    _word("orchestration", "none compose kubernetes kubernetes-node", "what runs it, or whether it is a node itself"),
    _flag("docker_inside", "app containers run inside"),
    _flag("vms_inside", "virtual machines run inside"),
    _word("snapshots", "none disk memory", "points in time that it must be put back to"),
    _flag("desktop", "has a graphical desktop"),
    _flag("realtime", "has deadlines below a millisecond"),
    _flag("privileged", "is root with all rights inside"),
    Key(
        name="host_access",
        kind="words",
        meaning="what of the host it must see",
        words=("docker-socket", "host-network", "host-pid", "host-folders"),
        default=(),
    ),
    Key(
        name="team",
        kind="words",
        meaning="what those who run it know well",
        words=("containers", "linux", "virtual-machines"),
        default=(),
    ),
    _texts("engines", "the only engines that come into question"),
    _texts("publish", "ports, as `triune launch --publish` takes them"),
    _texts("volumes", "folders and volumes, as `triune launch --volume` takes them"),
    _texts("env", "variables, as `triune launch --env` takes them"),
)
KEYS: Mapping[str, Key] = {key.name: key for key in _DECLARED}
PARTS = "parts"


@dataclass(frozen=True, slots=True)
class Workload:
    """Every key's value (sizes in bytes, durations in seconds) and which were `given`; `parts` have no parts."""

    values: Mapping[str, Any]
    given: frozenset[str] = frozenset()
    parts: tuple[Workload, ...] = field(default=())

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def having(self, **changed: Any) -> Workload:
        """The same with other values, as `parse` makes them."""
        return Workload({**self.values, **changed}, self.given | changed.keys(), self.parts)

    def demands(self) -> dict[str, Any]:
        """What was said, JSON-safe."""
        said = {name: self.values[name] for name in KEYS if name in self.given}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}


def parse(data: object) -> Workload:
    """Check and read a workload, as YAML or JSON gives it. Raises Invalid; an unknown key is told with the nearest."""
    values, given, parts = _parse(data, "the workload")
    if len(parts) > MOST_PARTS:
        raise Invalid(
            "bad_workload", f"the workload has {len(parts)} parts", hint=f"At most {MOST_PARTS} are looked at."
        )
    inner = []
    for number, part in enumerate(parts, 1):
        own, named, more = _parse(part, f"part {number}")
        if more:
            raise Invalid("bad_workload", f"part {number} has parts", hint="Put them beside it.")
        if not own["name"]:
            own["name"] = f"part-{number}"
        inherited = given - {"name", "description", "image"} - named
        inner.append(Workload({**own, **{name: values[name] for name in inherited}}, named | inherited))
    return Workload(values, given, tuple(inner))


def _parse(data: object, where: str) -> tuple[dict[str, Any], frozenset[str], Sequence[Any]]:
    if not isinstance(data, Mapping):
        raise Invalid(
            "bad_workload", f"{where} is no mapping of keys to values", hint="See its keys: triune advise --schema"
        )
    unknown = [str(name)[:_LONGEST] for name in data if name not in KEYS and name != PARTS]
    if unknown:
        told = ", ".join(map(_brief, unknown[:_TOLD])) + (" …" if len(unknown) > _TOLD else "")
        raise Invalid(
            "unknown_key",
            f"{where} has {'keys' if len(unknown) > 1 else 'a key'} that nobody knows: {told}",
            hint=" ".join(_nearest(name) for name in unknown[:_TOLD]),
            keys=unknown,
        )
    given = {
        name: _value(KEYS[name], value, where) for name, value in data.items() if name in KEYS and value is not None
    }
    parts = data.get(PARTS) or ()
    if not isinstance(parts, list | tuple):
        raise Invalid("bad_workload", f"{where}: parts is no list", hint="Write one workload below each dash.")
    return {key.name: given.get(key.name, key.default) for key in _DECLARED}, frozenset(given), parts


def _brief(value: object) -> str:
    """A value in an error, however large it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _nearest(name: str) -> str:
    if len(name) > _LONGEST // 64:
        return f"Nothing is like {_brief(name)}: triune advise --schema"
    near = difflib.get_close_matches(name.lower().replace("-", "_"), [*KEYS, PARTS], 1, 0.5)
    return f"Did you mean {near[0]!r} for {name!r}?" if near else f"Nothing is like {name!r}: triune advise --schema"


def _value(key: Key, value: object, where: str) -> Any:
    """The value of a key. Raises Invalid that names it."""
    try:
        return _read(key, value)
    except (ValueError, TypeError, OverflowError):
        expected = EXPECTED[key.kind] + (f": {', '.join(key.words)}" if key.words else "")
        near = difflib.get_close_matches(_brief(value).strip("'").lower(), key.words, 1)
        did = f" Did you mean {near[0]!r}?" if near else ""
        raise Invalid(
            "bad_workload",
            f"{where}: {_brief(value)} is no value of {key.name}",
            hint=f"Give {expected}.{did}",
            key=key.name,
        ) from None


EXPECTED: Mapping[Kind, str] = {
    "flag": "true or false",
    "word": "one of these",
    "words": "a list of these",
    "text": "one line of text",
    "texts": "a list of texts",
    "size": "a size like 512MiB",
    "cpus": "a number like 2 or 0.5",
    "duration": "a duration like 500ms or 30s",
    "count": "a whole number from 1",
}


def _read(key: Key, value: Any) -> Any:
    """Raises ValueError for what it is not, Invalid where a unit says more."""
    if key.kind in ("texts", "words"):
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or len(items) > _MOST_ITEMS:
            raise ValueError
        read = tuple(_text(item) for item in items)
        if key.kind == "words" and not set(read) <= set(key.words):
            raise ValueError
        return read
    if key.kind == "flag":
        if not isinstance(value, bool):
            raise ValueError
        return value
    if isinstance(value, bool):
        raise ValueError
    if key.kind in ("word", "text"):
        return _chosen(key, value)
    return _amount(key.kind, value)


def _chosen(key: Key, value: Any) -> str:
    text = _text(value)
    if key.kind == "word" and text not in key.words:
        raise ValueError
    return text


def _amount(kind: Kind, value: Any) -> float | int:
    if not isinstance(value, int | float | str):
        raise ValueError
    if kind == "size":
        size = value if isinstance(value, int) else parse_size(str(value))
        if not 0 < size < 2**63:
            raise ValueError
        return size
    if kind == "cpus":
        return parse_cpus(str(value))
    if kind == "duration":
        return parse_duration(str(value))
    number = int(value)
    if not 1 <= number <= _MOST or number != float(value):
        raise ValueError
    return number


def _text(value: object) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError
    text = str(value)
    if len(text) > _LONGEST or not text.isprintable():
        raise ValueError
    return text


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a workload file."""
    properties = {key.name: _schema(key) for key in _DECLARED}
    part = {"type": "object", "additionalProperties": False, "properties": properties}
    parts = {
        "description": "workloads that belong together, each with its own answer; what they don't say is the whole's",
        "type": "array",
        "maxItems": MOST_PARTS,
        "items": {"$ref": "#/$defs/part"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Workload",
        "type": "object",
        "additionalProperties": False,
        "properties": {**properties, PARTS: parts},
        "$defs": {"part": part},
    }


def _schema(key: Key) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string", "maxLength": _LONGEST}
    shapes: dict[str, dict[str, Any]] = {
        "flag": {"type": "boolean"},
        "word": {"enum": list(key.words)},
        "words": {"type": "array", "maxItems": _MOST_ITEMS, "items": {"enum": list(key.words)}},
        "text": text,
        "texts": {"type": "array", "maxItems": _MOST_ITEMS, "items": text},
        "size": {"anyOf": [text, {"type": "integer", "minimum": 1}]},
        "cpus": {"anyOf": [text, {"type": "number", "minimum": 0.01, "maximum": 4096}]},
        "duration": {"anyOf": [text, {"type": "number", "minimum": 0}]},
        "count": {"type": "integer", "minimum": 1, "maximum": _MOST},
    }
    default = {} if key.default is None else {"default": list(key.default) if key.default == () else key.default}
    return {"description": key.meaning, **shapes[key.kind], **default}
