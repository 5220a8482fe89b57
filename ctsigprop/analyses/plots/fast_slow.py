"""A whole trajectory over the bifurcations of its fast variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.branches import (
    draw_bifurcations,
    draw_branches,
    draw_cycles,
    heights_of,
    name_bifurcations,
)
from ctsigprop.analyses.plots.look import (
    BLUE,
    GREY,
    PURPLE,
    label,
    math_name,
    need,
    style,
)
from ctsigprop.analyses.plots.portraits import component

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = ["plot_fast_slow"]

COLOURS = {"equilibrium": BLUE, "cycle": PURPLE, "between": GREY}
SAID = {
    "equilibrium": "on a stable equilibrium of the fast variables",
    "cycle": "within a stable cycle of the fast variables",
    "between": "on its way",
}


def plot_fast_slow(tree: DataTree, variable: str | None = None) -> Figure:
    """Draw the bifurcations of the fast variables, the trajectory over them, and its time courses.

    Solid lines are stable, dashed ones unstable; cycles are drawn by their extremes. Open
    circles stand where the trajectory leaves a branch.

    Parameters
    ----------
    tree : xarray.DataTree
        From `fast_slow`, or read back from a store; or a tree of such trees, one a column.
    variable : str, optional
        The fast component that is shown, such as ``x`` or ``s_y_0``; the first by default.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.fast_slow import fast_slow
    >>> text = "dx/dt = (z + x - x**3/3)/eps : 1; dz/dt = -x : 1".replace("; ", chr(10))
    >>> oscillator = ct.System(ct.TextNeuron(text, eps=0.01, initial={"x": 2.0}))
    >>> run = ct.solve(oscillator, t=torch.linspace(0.0, 2.0, 401).double())
    >>> plot_fast_slow(fast_slow(oscillator, "z", run)).axes[0].get_xlabel()
    '$z$'
    """
    from matplotlib.figure import Figure

    panels = [child for child in tree.children.values() if "jumps" in child.children]
    if not panels:
        need(tree, "jumps", "fast_slow")
        panels = [tree]
    with style():
        figure = Figure(figsize=(4.7 * len(panels) + 0.4, 7.0))
        axes = figure.subplots(3, len(panels), squeeze=False, height_ratios=[3.2, 1, 1])
        shown: dict[str, Any] = {}
        for column, panel in zip(axes.T, panels, strict=True):
            symbols = list(panel.attrs["axes"])
            name = symbols[0] if variable is None or variable not in symbols else variable
            _draw_plane(column[0], panel, panel.attrs["components"][symbols.index(name)], name)
            _draw_courses(column[1], column[2], panel, name)
            handles, labels = column[0].get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        figure.legend(
            shown.values(),
            shown.keys(),
            loc="outside lower center",
            ncols=2 if len(panels) < 2 else 3,
            fontsize=8,
        )
    return figure


def _draw_plane(ax: Axes, tree: DataTree, name: str, shown: str) -> None:
    p = str(tree.attrs["slow"])
    branches, points = tree["branches"].to_dataset(), tree["bifurcations"].to_dataset()
    rings = tree["cycles"].to_dataset() if "cycles" in tree.children else None
    draw_branches(ax, branches, p, name)
    if rings is not None:
        draw_cycles(ax, rings, p, name)
    path = tree["trajectory"].to_dataset()
    z, y = path[p].values, component(path, name, "time")
    meanings = path["place"].attrs["flag_meanings"].split()
    _draw_path(ax, z, y, path["place"].values, meanings, 1.1)
    draw_bifurcations(ax, points, p, heights_of(points, rings, p, name))
    left = tree["jumps"].to_dataset()["left"].values
    rows = np.searchsorted(path["time"].values, left)
    ax.plot(
        *(z[rows], y[rows], "o"),
        color=BLUE,
        markerfacecolor="white",
        ms=5,
        ls="",
        zorder=6,
        label="leaves a stable branch",
    )
    ax.set_xlim(*tree.attrs["bounds"])
    room = 0.25 * np.ptp(y)
    ax.set_ylim(y.min() - room, y.max() + room)
    ax.set_xlabel(label(path[p]))
    ax.set_ylabel(label(path[name.partition("[")[0]], math_name(shown)))
    ax.set_title(tree.attrs["title"], pad=16)
    name_bifurcations(ax, points, p)


def _draw_courses(above: Axes, below: Axes, tree: DataTree, shown: str) -> None:
    p = str(tree.attrs["slow"])
    path = tree["trajectory"].to_dataset()
    name = tree.attrs["components"][list(tree.attrs["axes"]).index(shown)]
    meanings = path["place"].attrs["flag_meanings"].split()
    t, place = path["time"].values, path["place"].values
    _draw_path(above, t, component(path, name, "time"), place, meanings, 1.0)
    _draw_path(below, t, path[p].values, place, meanings, 1.4)
    above.set_ylabel(label(path[name.partition("[")[0]], math_name(shown)))
    below.set_ylabel(label(path[p]))
    below.set_xlabel(label(path["time"], "time"))
    for ax in (above, below):
        ax.set_xlim(t[0], t[-1])
    above.set_xticklabels([])


def _draw_path(ax: Axes, x: Any, y: Any, place: Any, meanings: list[str], width: float) -> None:
    """Draw a line in the colours of the places where it is."""
    edges = np.flatnonzero(np.diff(place)) + 1
    for rows in np.split(np.arange(len(x)), edges):
        there = meanings[place[rows[0]]]
        own = np.append(rows, rows[-1] + 1) if rows[-1] + 1 < len(x) else rows
        ax.plot(x[own], y[own], color=COLOURS[there], lw=width, zorder=4, label=SAID[there])
