"""The frontier as a picture: how many of one engine fit beside how many of another, for some counts of a third."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triune.domain.errors import Invalid
from triune.services.placement.capacity import Line, alone, most_of

_POINTS = 160
_SHARES = (0.0, 0.25, 0.5, 0.75)
_COLOURS = ("#1b6ca8", "#3fa796", "#f0a500", "#cf4647")
_ENDINGS = (".svg", ".png", ".pdf")


def plot(path: Path, found: Sequence[Line], engines: Sequence[str], mix: Mapping[str, int] | None, title: str) -> None:
    """Write the picture; the file's ending says its kind. The axes are the two engines of which most fit.

    Raises Invalid("bad_plot").
    """
    if path.suffix.lower() not in _ENDINGS:
        raise Invalid(
            "bad_plot", f"{path.name} ends in no known kind of picture", hint=f"Kinds are {', '.join(_ENDINGS)}."
        )
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "triune"
    import matplotlib.pyplot as plt

    fits = {engine: alone(found, engine)["fits"] for engine in engines}
    order = sorted((engine for engine in engines if fits[engine] > 0), key=lambda engine: -fits[engine])
    figure, axes = plt.subplots(figsize=(9.2, 4.8))
    try:
        _draw(axes, found, order, fits, mix)
        axes.set_title(title, fontsize=10, loc="left")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise Invalid("bad_plot", f"can't write {path}: {error.strerror}", hint="Name a writable file.") from None
    finally:
        plt.close(figure)


def _draw(
    axes: Any, found: Sequence[Line], order: Sequence[str], fits: Mapping[str, int], mix: Mapping[str, int] | None
) -> None:
    if not order:
        axes.text(0.5, 0.5, "nothing fits", ha="center", va="center", transform=axes.transAxes)
        return
    first, second = order[0], order[1] if len(order) > 1 else None
    third = order[2] if len(order) > 2 else None
    for share, colour in zip(_SHARES if third else _SHARES[:1], _COLOURS, strict=False):
        beside = {third: float(int(fits[third] * share))} if third else {}
        _frontier(axes, found, first, second, beside, colour, f"{beside[third]:,.0f} {third}" if third else first)
    if mix and (mix.get(first) or (second and mix.get(second))):
        told = ", ".join(f"{count:,} {name}" for name, count in mix.items())
        axes.plot(
            mix.get(first, 0),
            mix.get(second or "", 0),
            "o",
            color="black",
            zorder=5,
            clip_on=False,
            label=f"asked: {told}",
        )
    axes.set_xlabel(f"{first} instances")
    axes.set_ylabel(f"{second} instances" if second else "")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False, title="beside" if third else None, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0)
    )


def _frontier(
    axes: Any,
    found: Sequence[Line],
    first: str,
    second: str | None,
    beside: Mapping[str, float],
    colour: str,
    label: str,
) -> None:
    most = most_of(found, first, beside)
    if most < 0:
        return
    if second is None:
        axes.barh([0], [most], color=colour, label=label)
        return
    across = [most * at / _POINTS for at in range(_POINTS + 1)]
    up = [max(0.0, most_of(found, second, {**beside, first: count})) for count in across]
    axes.plot(across, up, color=colour, label=label, linewidth=1.8)
    axes.fill_between(across, up, color=colour, alpha=0.06)
