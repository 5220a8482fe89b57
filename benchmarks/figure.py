"""The works in one picture: how many times the time of ours each contestant takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]

COLOURS = {
    "torchdiffeq": "#c0392b",
    "adjoint": "#e59866",
    "diffrax": "#2471a3",
    "diffrax_loose": "#85c1e9",
    "jax": "#17a589",
    "numba": "#7d3c98",
    "torchode": "#b7950b",
    "full": "#212f3c",
    "dense": "#808b96",
    "projective": "#bfc9ca",
    "steady": "#58d68d",
    "settling": "#1d8348",
    "floor": "#000000",
}
MARKS = {"floor": "|", "dense": "s", "full": "s", "projective": "s", "steady": "s", "settling": "s"}
SAID = {
    "diffrax_loose": "diffrax at 1e-4",
    "adjoint": "torchdiffeq, adjoint",
    "steady": "straight to rest",
    "settling": "steps to the same residual",
}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the ratios of all works on a logarithmic axis, with what is asked and aimed at.

    Parameters
    ----------
    rows : sequence of mapping
        As `works.measured` returns them.
    path : Path
        The file that is written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 1.3 + 0.42 * len(rows)), dpi=100, layout="constrained")
    axes = figure.subplots()
    labels: dict[str, Any] = {}
    for k, row in enumerate(rows):
        axes.axhline(k, color="0.92", zorder=0)
        for who, (least, aim) in row["asked"].items():
            if who not in row["ratios"]:
                continue
            colour = COLOURS.get(who, "0.5")
            if least:
                axes.plot([least], [k + 0.27], marker=6, color=colour, ms=6, zorder=1)
            axes.plot([least or aim, aim], [k + 0.27] * 2, color=colour, lw=1.2, zorder=1)
        for who, ratio in row["ratios"].items():
            if not ratio > 0:
                continue
            (labels[who],) = axes.plot(
                [ratio],
                [k],
                MARKS.get(who, "o"),
                color=COLOURS.get(who, "0.5"),
                ms=11 if who == "floor" else 6,
                mew=2 if who == "floor" else 0.5,
                zorder=3,
            )
    axes.axvline(1.0, color="0.3", lw=1.0, zorder=1)
    axes.set(
        xscale="log",
        ylim=(len(rows) - 0.4, -0.6),
        yticks=range(len(rows)),
        yticklabels=[row["work"] for row in rows],
        xlabel="processor time / that of ctsigprop   (lines from ▴: asked to aimed at)",
    )
    axes.spines[["top", "right"]].set_visible(False)
    order = [who for who in COLOURS if who in labels] + sorted(labels.keys() - COLOURS.keys())
    figure.legend(
        [labels[who] for who in order],
        [SAID.get(who, who) for who in order],
        loc="outside right upper",
        frameon=False,
        fontsize=8,
    )
    figure.savefig(path)
