"""Bifurcation diagrams, and curves of bifurcations under two parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.branches import (
    LINES,
    SHORT,
    by_stability,
    draw_bifurcations,
    draw_branches,
    draw_cycles,
    heights_of,
    name_bifurcations,
    said,
    stretches,
)
from ctsigprop.analyses.plots.look import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PALETTE,
    VERMILION,
    label,
    math_name,
    need,
    style,
)
from ctsigprop.analyses.plots.portraits import component

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

__all__ = [
    "plot_bifurcation_curves",
    "plot_bifurcations",
    "plot_cycles",
    "plot_frequencies",
]


def plot_bifurcations(tree: DataTree, variable: str | None = None) -> Figure:
    """Draw a bifurcation diagram: equilibria, cycles by their extremes, and what was located.

    Solid lines are stable, dashed ones unstable. Cycles are drawn by the least and the greatest
    value of the variable, and by their period below. Letters above name the points.

    Parameters
    ----------
    tree : xarray.DataTree
        From `bifurcation_diagram`, or read back from a store.
    variable : str, optional
        What is drawn against the parameter, such as ``v`` or ``w_0_1``; the first by default.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.bifurcations import bifurcation_diagram
    >>> neuron = ct.System(ct.fitzhugh_nagumo())
    >>> tree = bifurcation_diagram(neuron, "I", (0.0, 2.0), ranges={"v": (-3, 3)}, cycles=False)
    >>> plot_bifurcations(tree).axes[0].get_ylabel()
    '$v$'
    """
    from matplotlib.figure import Figure

    need(tree, "branches", "bifurcation_diagram")
    symbols, components = list(tree.attrs["axes"]), list(tree.attrs["components"])
    shown = symbols[0] if variable is None else variable
    if shown not in symbols:
        raise ValueError(f"variable must be one of {', '.join(symbols)}; got {shown!r}")
    name = components[symbols.index(shown)]
    p = str(tree.attrs["parameter"])
    branches = tree["branches"].to_dataset()
    rings = tree["cycles"].to_dataset() if "cycles" in tree.children else None
    points = tree["bifurcations"].to_dataset()
    with style():
        figure = Figure(figsize=(5.8, 5.2 if rings is not None else 4.2))
        panels = figure.subplots(
            2 if rings is not None else 1,
            1,
            sharex=True,
            squeeze=False,
            height_ratios=[3, 1] if rings is not None else [1],
        )[:, 0]
        top = panels[0]
        draw_branches(top, branches, p, name)
        if rings is not None:
            draw_cycles(top, rings, p, name)
            _draw_periods(panels[1], rings, p)
        draw_bifurcations(top, points, p, heights_of(points, rings, p, name))
        top.set_ylabel(label(branches[name.partition("[")[0]], math_name(shown)))
        panels[-1].set_xlabel(label(branches[p]))
        low, high = tree.attrs["bounds"]
        top.set_xlim(low, high)
        top.margins(y=0.08)
        name_bifurcations(top, points, p)
        figure.suptitle(tree.attrs["title"], fontsize=10)
        handles, labels = top.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def plot_cycles(tree: DataTree, x: str, y: str, count: int = 12) -> Figure:
    """Draw some of the cycles of a diagram in a plane, coloured by the parameter.

    Parameters
    ----------
    tree : xarray.DataTree
        From `bifurcation_diagram`, with cycles.
    x, y : str
        Components, such as ``v`` or ``w[0,1]``.
    count : int
        How many cycles, spread evenly along each branch.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.bifurcations import bifurcation_diagram
    >>> oscillator = ct.System(ct.stuart_landau(mu=-0.5))
    >>> tree = bifurcation_diagram(oscillator, "mu", (-1, 1), ranges={"x": (-2, 2), "y": (-2, 2)})
    >>> len(plot_cycles(tree, "x", "y", 5).axes[0].lines)
    5
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure

    need(tree, "cycles", "bifurcation_diagram, of a range in which there are cycles")
    p = str(tree.attrs["parameter"])
    rings = tree["cycles"].to_dataset()
    names = {name.partition("[")[0]: name for name in tree.attrs["components"]}
    columns = [component(rings, names.get(name, name), "orbit", "phase") for name in (x, y)]
    values, branch = rings[p].values, rings["branch"].values
    chosen: list[int] = []
    for k in range(int(branch.max()) + 1):
        rows = np.flatnonzero(branch == k)
        length = np.concatenate([[0.0], np.cumsum(_gaps(columns, rows))])
        chosen += list(rows[np.searchsorted(length, np.linspace(0, length[-1], count))])
    shades = Normalize(values[chosen].min(), values[chosen].max())
    colours = ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))
    with style():
        figure = Figure(figsize=(5.4, 4.4))
        ax = figure.add_subplot()
        for k in chosen:
            unstable = rings["stability"].values[k] != 0
            ax.plot(
                *(column[k] for column in columns),
                color=colours(shades(values[k])),
                ls="--" if unstable else "-",
                lw=1.2,
            )
        for setter, name in ((ax.set_xlabel, x), (ax.set_ylabel, y)):
            setter(label(rings[name.partition("[")[0]]))
        figure.colorbar(ScalarMappable(shades, colours), ax=ax, label=label(rings[p]))
        ax.set_title(f"{tree.attrs['title']}: cycles (dashed: unstable)")
    return figure


def plot_frequencies(trees: Mapping[str, DataTree]) -> Figure:
    """Draw how often cycles turn against the parameter: the f–I curves of neurons.

    Parameters
    ----------
    trees : mapping of str to xarray.DataTree
        From `bifurcation_diagram`, with cycles, under one parameter; by the names of the legend.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.bifurcations import bifurcation_diagram
    >>> oscillator = ct.System(ct.stuart_landau(mu=-0.5))
    >>> tree = bifurcation_diagram(oscillator, "mu", (-1, 1), ranges={"x": (-2, 2), "y": (-2, 2)})
    >>> plot_frequencies({"Stuart-Landau": tree}).axes[0].get_ylabel()
    'frequency'
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.4, 3.8))
        ax = figure.add_subplot()
        for colour, (name, tree) in zip(PALETTE, trees.items(), strict=False):
            need(tree, "cycles", "bifurcation_diagram, of a range in which there are cycles")
            rings, p = tree["cycles"].to_dataset(), str(tree.attrs["parameter"])
            unit = rings["period"].attrs["units"]
            factor = {"ms": 1e3, "s": 1.0}.get(unit, 1.0)
            for rows, state in by_stability(rings):
                ax.plot(
                    rings[p][rows],
                    factor / rings["period"][rows],
                    color=colour,
                    **LINES[state],
                    label=f"{name}, {state}",
                )
            ax.set_xlabel(label(rings[p]))
            ax.set_ylabel("frequency (Hz)" if unit in ("ms", "s") else "frequency")
        ax.set_ylim(bottom=0.0)
        handles, labels = ax.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def plot_bifurcation_curves(tree: DataTree) -> Figure:
    """Draw the curves of folds and Hopf points under two parameters, and the special points.

    Parameters
    ----------
    tree : xarray.DataTree
        From `bifurcation_curves`, or read back from a store.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.codimension_two import bifurcation_curves
    >>> cubic = ct.System(ct.TextNeuron("dx/dt = a + b*x - x**3 : 1", a=0.0, b=1.0))
    >>> tree = bifurcation_curves(cubic, {"a": (-1, 1), "b": (-1, 2)}, ranges={"x": (-3, 3)})
    >>> plot_bifurcation_curves(tree).axes[0].get_xlabel()
    '$a$'
    """
    from matplotlib.figure import Figure

    need(tree, "curves", "bifurcation_curves")
    x, y = tree.attrs["parameters"]
    curves, special = tree["curves"].to_dataset(), tree["codimension_two"].to_dataset()
    kinds = curves["kind"].attrs["flag_meanings"].split()
    looks = {
        "fold": (BLUE, "-", "fold"),
        "hopf": (VERMILION, "-", "Hopf, supercritical"),
        "subcritical": (VERMILION, "--", "Hopf, subcritical"),
        "neutral_saddle": (GREY, ":", "neutral saddle"),
    }
    with style():
        figure = Figure(figsize=(5.4, 4.4))
        ax = figure.add_subplot()
        flags = curves["kind"].values.astype(int)
        rising = (flags == kinds.index("hopf")) & (curves["coefficient"].values > 0)
        for rows, flag in stretches(curves["curve"].values, flags + len(kinds) * rising):
            name = "subcritical" if flag >= len(kinds) else kinds[int(flag)]
            colour, dash, text = looks[name]
            ax.plot(curves[x][rows], curves[y][rows], color=colour, ls=dash, label=text)
        names = special["kind"].attrs["flag_meanings"].split()
        bounds_x, bounds_y = tree.attrs["bounds"].values()
        named: list[tuple[float, float]] = []
        for k in range(special.sizes["special"]):
            kind = names[int(special["kind"][k])]
            at = float(special[x][k]), float(special[y][k])
            ax.plot(*at, "o", color=BLACK, ms=5, zorder=5, label=said(kind), ls="")
            near = [
                abs(at[0] - other[0]) < 0.05 * np.ptp(bounds_x)
                and abs(at[1] - other[1]) < 0.05 * np.ptp(bounds_y)
                for other in named
            ]
            ax.annotate(
                SHORT[kind],
                at,
                xytext=(6, 6 - 10 * sum(near)),
                textcoords="offset points",
                fontsize=8,
                zorder=6,
            )
            named.append(at)
        ax.set_xlabel(label(curves[x]))
        ax.set_ylabel(label(curves[y]))
        ax.set_xlim(*bounds_x)
        ax.set_ylim(*bounds_y)
        ax.set_title(tree.attrs["title"])
        handles, labels = ax.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _draw_periods(ax: Axes, rings: Dataset, p: str) -> None:
    period = rings["period"].values
    for rows, state in by_stability(rings):
        ax.plot(rings[p][rows], period[rows], color=GREEN, **LINES[state])
    ax.set_ylabel(label(rings["period"], "period"))
    if period.max() > 20 * period.min():
        ax.set_yscale("log")


def _gaps(columns: Sequence[Any], rows: Any) -> Any:
    """Return how far each cycle is from the one before, by the extents of their components."""
    extents = np.stack([np.ptp(column[rows], axis=1) for column in columns], 1)
    largest = np.maximum(extents.max(0), 1e-300)
    return np.abs(np.diff(extents / largest, axis=0)).sum(1) + 1e-9
