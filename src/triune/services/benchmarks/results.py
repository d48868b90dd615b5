"""Results: a JSON file per run. The schema is in docs/BENCH.md; `schema` in the file names its version."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triune.domain.errors import Failed, Invalid, NotFound
from triune.services.benchmarks.statistics import Ratio, Summary, ratio, summary
from triune.services.benchmarks.subject import NATIVE

SCHEMA = "triune-bench"
VERSION = 1
FOLDER = "bench"

COMPLETE, INTERRUPTED, RUNNING = "complete", "interrupted", "running"

_LARGEST = 256 * 2**20
_LEAST_FIGURE = 1e-18
_LONGEST_ID = 64
_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "id": str, "state": str, "suite": str, "started": str, "host": dict, "limits": dict, "image": dict,
    "subjects": list, "absent": list, "benchmarks": list, "samples": list, "problems": list, "warnings": list,
}  # fmt: skip
_BENCHMARK: Mapping[str, type | tuple[type, ...]] = {
    "id": str, "area": str, "title": str, "unit": str, "better": str, "relative": bool,
}  # fmt: skip
_SUBJECT: Mapping[str, type | tuple[type, ...]] = {"name": str, "title": str, "label": str}
_SAMPLE: Mapping[str, type | tuple[type, ...]] = {
    "benchmark": str, "subject": str, "round": int, "value": (int, float),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One benchmark of one subject; `ratio` is to native, None where there is none."""

    benchmark: Mapping[str, Any]
    subject: Mapping[str, Any]
    samples: tuple[float, ...]
    summary: Summary
    ratio: Ratio | None

    def as_dict(self) -> dict[str, Any]:
        """As `--format json` and `report --json` have it."""
        return {
            "benchmark": self.benchmark["id"],
            "area": self.benchmark["area"],
            "title": self.benchmark["title"],
            "unit": self.benchmark["unit"],
            "better": self.benchmark["better"],
            "subject": self.subject["name"],
            "label": self.subject["label"],
            **self.summary.as_dict(),
            "relative_to_native": self.ratio.as_dict() if self.ratio else None,
        }


class Result:
    """A run, as in its file."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def subject(self, name: str) -> Mapping[str, Any] | None:
        """By name."""
        return next((found for found in self["subjects"] if found["name"] == name), None)

    def samples(self, benchmark: str, subject: str) -> tuple[float, ...]:
        """All of them, in the order they were taken."""
        return tuple(
            float(found["value"])
            for found in self["samples"]
            if found["benchmark"] == benchmark and found["subject"] == subject
        )

    def cells(self, wanted: Collection[str] | None = None) -> Iterator[Cell]:
        """Every benchmark of every subject that has samples, in the catalogue's order; only the `wanted` ones."""
        for benchmark in self["benchmarks"]:
            if wanted is not None and benchmark["id"] not in wanted:
                continue
            native = self.samples(benchmark["id"], NATIVE) if benchmark["relative"] else ()
            for subject in self["subjects"]:
                found = self.samples(benchmark["id"], subject["name"])
                if not found:
                    continue
                against = (
                    ratio(found, native, lower_is_better=benchmark["better"] == "lower")
                    if native and subject["name"] != NATIVE
                    else None
                )
                yield Cell(benchmark, subject, found, summary(found), against)

    def as_dict(self) -> dict[str, Any]:
        """The file's content, and `summary`: a row for each cell."""
        return {**self.data, "summary": [cell.as_dict() for cell in self.cells()]}


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all. Raises Failed("result_not_written")."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise Failed(
            "result_not_written",
            f"the result can't be written to {path}: {error.strerror}",
            hint="Name another file: --output FILE",
        ) from None


def load(path: Path) -> Result:
    """Read a result. Raises NotFound("no_result"), Invalid("malformed_result" | "result_of_another_version")."""
    try:
        if not path.is_file() and path.exists():
            raise _malformed(path, "it is no regular file")
        if path.stat().st_size > _LARGEST:
            raise _malformed(path, "it is larger than 256 MiB")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound("no_result", f"there is no file {path}", hint="Measure: triune bench run") from None
    except OSError as error:
        raise Invalid("unreadable_result", f"{path} can't be read: {error.strerror}", hint="Name a file.") from None
    except (ValueError, RecursionError):
        raise _malformed(path, "it is not JSON") from None
    _check(path, data)
    return Result(data)


def _check(path: Path, data: Any) -> None:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise _malformed(path, f"it has no schema {SCHEMA!r}")
    if data.get("version") != VERSION:
        raise Invalid(
            "result_of_another_version",
            f"{path} is a result of version {str(data.get('version'))[:20]}; this program reads version {VERSION}",
            hint="Read it with the program that made it, or measure anew: triune bench run",
        )
    _typed(path, "it", data, _KEYS)
    for key, wanted in (("benchmarks", _BENCHMARK), ("subjects", _SUBJECT), ("samples", _SAMPLE)):
        for number, found in enumerate(data[key]):
            _typed(path, f"{key}[{number}]", found, wanted)
    for number, found in enumerate(data["samples"]):
        if not _LEAST_FIGURE < found["value"] < 1 / _LEAST_FIGURE:
            raise _malformed(path, f"samples[{number}] is {str(found['value'])[:20]}, no figure")
    for key in ("id", "started"):
        # They are shown in reasons, which go to terminals and into JSON.
        if not (data[key].isascii() and data[key].isprintable() and len(data[key]) <= _LONGEST_ID):
            raise _malformed(path, f"its {key!r} is no plain text of {_LONGEST_ID} characters at most")


def _typed(path: Path, where: str, found: Any, wanted: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(found, dict):
        raise _malformed(path, f"{where} is no object")
    for key, kind in wanted.items():
        if not isinstance(found.get(key), kind) or (isinstance(found[key], bool) and kind is not bool):
            raise _malformed(path, f"{where} has no proper {key!r}")


def _malformed(path: Path, why: str) -> Invalid:
    return Invalid(
        "malformed_result",
        f"{path} is no result of a benchmark: {why}",
        hint="Name a file that triune bench run wrote.",
    )


def usable(folder: Path, *, hostname: str | None = None) -> Iterator[tuple[Path, Result]]:
    """Ended results with samples below a folder, the newest first; of this host if one is named."""
    for path in _files(folder):
        try:
            found = load(path)
        except (Invalid, NotFound):
            continue
        if found["samples"] and found["state"] != RUNNING and hostname in (None, found["host"].get("hostname")):
            yield path, found


def newest(folder: Path, *, hostname: str | None = None) -> Path | None:
    """The newest of them; None where there is none."""
    return next((path for path, _ in usable(folder, hostname=hostname)), None)


def _files(folder: Path) -> Sequence[Path]:
    """Results, the newest first: their names begin with the time."""
    try:
        return sorted((path for path in folder.glob("*.json") if not path.name.startswith(".")), reverse=True)
    except OSError:
        return ()


def latest(folder: Path) -> Path:
    """The newest of all. Raises NotFound("no_result")."""
    found = newest(folder) if os.access(folder, os.R_OK | os.X_OK) else None
    if found is None:
        raise NotFound("no_result", f"there is no result below {folder} yet", hint="Measure: triune bench run")
    return found
