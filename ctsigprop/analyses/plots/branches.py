"""Branches of equilibria and cycles, and the bifurcations on them, drawn into axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.look import BLACK, GREEN, VERMILION
from ctsigprop.analyses.plots.portraits import component

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import Dataset

__all__ = [
    "LINES",
    "SHORT",
    "by_stability",
    "draw_bifurcations",
    "draw_branches",
    "draw_cycles",
    "heights_of",
    "name_bifurcations",
    "said",
    "stretches",
]

LINES: dict[str, Any] = {"stable": {"ls": "-", "lw": 1.8}, "unstable": {"ls": "--", "lw": 1.0}}
SHORT = {
    "fold": "F",
    "hopf": "H",
    "pitchfork": "P",
    "transcritical": "T",
    "degenerate": "D",
    "cycle_fold": "FC",
    "period_doubling": "PD",
    "torus": "NS",
    "cycle_branch_point": "BC",
    "homoclinic": "HC",
    "snic": "SNIC",
    "cusp": "C",
    "bogdanov_takens": "BT",
    "bautin": "GH",
    "fold_hopf": "FH",
    "double_hopf": "HH",
}
LONG = {
    "hopf": "Hopf",
    "cycle_fold": "fold of cycles",
    "torus": "torus",
    "cycle_branch_point": "branch point of cycles",
    "snic": "saddle-node on a cycle",
    "bogdanov_takens": "Bogdanov–Takens",
    "bautin": "Bautin",
    "fold_hopf": "fold–Hopf",
    "double_hopf": "double Hopf",
}
MARKERS = {"fold": "s", "hopf": "o", "pitchfork": "D", "transcritical": "X", "degenerate": "P"}
MARKERS |= {"cycle_fold": "v", "period_doubling": "^", "torus": "h", "cycle_branch_point": "x"}
MARKERS |= {"homoclinic": "*", "snic": "*"}


def said(kind: str) -> str:
    """Return the letters and the name of a kind of point.

    >>> said("cycle_fold")
    'FC  fold of cycles'
    """
    return f"{SHORT[kind]}  {LONG.get(kind, kind.replace('_', ' '))}"


def stretches(branch: Any, state: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the rows of each stretch of one branch whose segments have one state.

    A segment has the larger state of its two ends.
    """
    for name in dict.fromkeys(branch.tolist()):
        rows = np.flatnonzero(branch == name)
        own = state[rows].astype(int)
        if len(rows) == 1:
            yield rows, own[0]
            continue
        segments = np.maximum(own[:-1], own[1:])
        edges = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(segments)]
        for a, b in itertools.pairwise(edges):
            yield rows[a : b + 1], segments[a]


def by_stability(branches: Dataset) -> Iterator[tuple[Any, str]]:
    """Yield the rows of each stretch of branches, and whether it is stable or unstable."""
    verdicts = branches["stability"].attrs["flag_meanings"].split()
    # a located point is marginal: its segments are as their other ends are
    unsteady = [k for k, verdict in enumerate(verdicts) if verdict in ("unstable", "saddle")]
    for rows, unstable in stretches(
        branches["branch"].values, np.isin(branches["stability"].values, unsteady)
    ):
        yield rows, "unstable" if unstable else "stable"


def draw_branches(ax: Axes, branches: Dataset, p: str, name: str) -> None:
    """Draw a component of equilibria against the parameter: solid where stable, else dashed."""
    values = component(branches, name, "point")
    for rows, state in by_stability(branches):
        look = {"color": BLACK, "label": f"{state} equilibrium"} | LINES[state]
        ax.plot(branches[p][rows], values[rows], **look)


def draw_cycles(ax: Axes, rings: Dataset, p: str, name: str) -> None:
    """Draw the least and the greatest value of a component on cycles against the parameter."""
    extremes = _extremes(rings, name)
    for rows, state in by_stability(rings):
        look = {"color": GREEN, "label": f"{state} cycle, extremes"} | LINES[state]
        for values in extremes:
            ax.plot(rings[p][rows], values[rows], **look)


def _extremes(rings: Dataset, name: str) -> list[Any]:
    """Return the least and the greatest value of a component on each cycle."""
    variable, bracket, index = name.partition("[")
    names = [f"{variable}_{of}{bracket}{index}" for of in ("min", "max")]
    return [component(rings, extreme, "orbit") for extreme in names]


def heights_of(points: Dataset, rings: Dataset | None, p: str, name: str) -> list[list[float]]:
    """Return where each bifurcation is drawn: at its equilibrium, or at the nearest cycle."""
    extremes = [] if rings is None else _extremes(rings, name)
    found: list[list[float]] = []
    for k, value in enumerate(component(points, name, "bifurcation")):
        if rings is None or np.isfinite(value):
            found.append([float(value)])
            continue
        gap = np.abs(rings[p].values - float(points[p][k])) / max(np.ptp(rings[p].values), 1e-300)
        gap += np.abs(np.log(rings["period"].values / float(points["period"][k])))
        nearest = int(gap.argmin())
        found.append([float(values[nearest]) for values in extremes])
    return found


def draw_bifurcations(ax: Axes, points: Dataset, p: str, heights: list[list[float]]) -> None:
    """Draw what was located into axes: its marker by kind, open where it is subcritical."""
    kinds = points["kind"].attrs["flag_meanings"].split()
    verdicts = points["criticality"].attrs["flag_meanings"].split()
    for k, where in enumerate(heights):
        kind = kinds[int(points["kind"][k])]
        verdict = verdicts[int(points["criticality"][k])]
        subcritical = verdict == "subcritical"
        ax.plot(
            [float(points[p][k])] * len(where),
            where,
            MARKERS[kind],
            color=VERMILION,
            markerfacecolor="white" if subcritical else VERMILION,
            ms=11 if MARKERS[kind] == "*" else 6,
            ls="",
            zorder=6 if MARKERS[kind] == "*" else 5,
            clip_on=False,
            label=said(kind) + (f", {verdict}" if verdict != "none" else ""),
        )


def name_bifurcations(ax: Axes, points: Dataset, p: str) -> None:
    """Write the letters of the points above the axes; those of near neighbours together."""
    kinds = points["kind"].attrs["flag_meanings"].split()
    low, high = ax.get_xlim()
    groups: list[tuple[list[float], list[str]]] = []
    for k in range(points.sizes["bifurcation"]):
        at, name = float(points[p][k]), SHORT[kinds[int(points["kind"][k])]]
        if groups and at - groups[-1][0][-1] < 0.06 * (high - low):
            groups[-1][0].append(at)
            if name not in groups[-1][1]:
                groups[-1][1].append(name)
        else:
            groups.append(([at], [name]))
    for where, names in groups:
        middle = (where[0] + where[-1]) / 2
        share = (middle - low) / (high - low)
        ax.annotate(
            ", ".join(names),
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="left" if share < 0.08 else "right" if share > 0.92 else "center",
            fontsize=8,
            color=VERMILION,
        )
        for at in where:
            ax.axvline(at, color=VERMILION, lw=0.5, alpha=0.4, zorder=0)
