"""Bifurcation diagrams, and curves of bifurcations under two parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.look import (
    BLACK,
    BLUE,
    GREY,
    PALETTE,
    VERMILION,
    label,
    math_name,
    need,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataArray, Dataset, DataTree

__all__ = [
    "draw_bifurcations",
    "heights_of",
    "name_bifurcations",
    "plot_bifurcation_curves",
    "plot_bifurcations",
    "plot_cycles",
    "plot_frequencies",
    "stretches",
]

GREEN = PALETTE[2]
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
    component = components[symbols.index(shown)]
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
        values = _component(branches, component, "point")
        verdicts = branches["stability"].attrs["flag_meanings"].split()
        flags = branches["stability"].values
        # a located point is marginal: its segments are as their other ends are
        unsteady = np.isin(flags, [verdicts.index(v) for v in ("unstable", "saddle")])
        for rows, unstable in stretches(branches["branch"].values, unsteady):
            top.plot(
                branches[p][rows],
                values[rows],
                color=BLACK,
                ls="--" if unstable else "-",
                lw=1.0 if unstable else 1.8,
                label=f"{'unstable' if unstable else 'stable'} equilibrium",
            )
        if rings is not None:
            _draw_cycles(top, panels[1], rings, p, component)
        heights = heights_of(points, rings, p, component)
        draw_bifurcations(top, points, p, heights)
        top.set_ylabel(label(branches[component.partition("[")[0]], math_name(shown)))
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
    columns = [_component(rings, names.get(name, name), "orbit", "phase") for name in (x, y)]
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
                columns[0][k],
                columns[1][k],
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
        for colour, (name, tree) in zip(
            (BLUE, VERMILION, *PALETTE[2:]), trees.items(), strict=False
        ):
            need(tree, "cycles", "bifurcation_diagram, of a range in which there are cycles")
            rings, p = tree["cycles"].to_dataset(), str(tree.attrs["parameter"])
            unit = rings["period"].attrs["units"]
            factor = {"ms": 1e3, "s": 1.0}.get(unit, 1.0)
            for rows, unstable in stretches(rings["branch"].values, rings["stability"].values):
                text = f"{name}, {'unstable' if unstable else 'stable'}"
                ax.plot(
                    rings[p][rows],
                    factor / rings["period"][rows],
                    color=colour,
                    ls="--" if unstable else "-",
                    lw=1.0 if unstable else 1.8,
                    label=text,
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
        bounds = tree.attrs["bounds"]
        bounds_x, bounds_y = (
            next(b for name, b in bounds.items() if _same(name, symbol)) for symbol in (x, y)
        )
        named: list[tuple[float, float]] = []
        for k in range(special.sizes["special"]):
            kind = names[int(special["kind"][k])]
            at = float(special[x][k]), float(special[y][k])
            said = LONG.get(kind, kind.replace("_", " "))
            ax.plot(*at, "o", color=BLACK, ms=5, zorder=5, label=f"{SHORT[kind]}  {said}", ls="")
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


def _same(name: str, symbol: str) -> bool:
    plain = name.replace(".", "_").replace("[", "_").replace(",", "_").rstrip("]")
    return symbol in (plain, f"{plain}_parameter")


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


def _draw_cycles(top: Axes, below: Axes, rings: Dataset, p: str, component: str) -> None:
    unstable = rings["stability"].values != 0
    variable, _, index = component.partition("[")
    for rows, dashed in stretches(rings["branch"].values, unstable):
        look: Any = {
            "color": GREEN,
            "ls": "--" if dashed else "-",
            "lw": 1.0 if dashed else 1.8,
        }
        text = f"{'unstable' if dashed else 'stable'} cycle, extremes"
        for of in ("min", "max"):
            name = f"{variable}_{of}" + (f"[{index}" if index else "")
            top.plot(rings[p][rows], _component(rings, name, "orbit")[rows], **look, label=text)
        below.plot(rings[p][rows], rings["period"][rows], **look)
    below.set_ylabel(label(rings["period"], "period"))
    period = rings["period"].values
    if period.max() > 20 * period.min():
        below.set_yscale("log")


def heights_of(points: Dataset, rings: Dataset | None, p: str, component: str) -> list[list[float]]:
    """Return where each bifurcation is drawn: at its equilibrium, or at the nearest cycle."""
    own = _component(points, component, "bifurcation")
    variable, _, index = component.partition("[")
    found: list[list[float]] = []
    for k, value in enumerate(own):
        if rings is None or np.isfinite(value):
            found.append([float(value)])
            continue
        gap = np.abs(rings[p].values - float(points[p][k])) / max(np.ptp(rings[p].values), 1e-300)
        gap += np.abs(np.log(rings["period"].values / float(points["period"][k])))
        nearest = int(gap.argmin())
        names = [f"{variable}_{of}" + (f"[{index}" if index else "") for of in ("min", "max")]
        found.append([float(_component(rings, name, "orbit")[nearest]) for name in names])
    return found


def draw_bifurcations(ax: Axes, points: Dataset, p: str, heights: list[list[float]]) -> None:
    """Draw what was located into axes, by its kind; open markers are subcritical."""
    """Draw what was located into axes: its marker by kind, open where it is subcritical."""
    kinds = points["kind"].attrs["flag_meanings"].split()
    verdicts = points["criticality"].attrs["flag_meanings"].split()
    for k, where in enumerate(heights):
        kind = kinds[int(points["kind"][k])]
        verdict = verdicts[int(points["criticality"][k])]
        text = f"{SHORT[kind]}  {LONG.get(kind, kind.replace('_', ' '))}"
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
            label=text + (f", {verdict}" if verdict != "none" else ""),
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


def _gaps(columns: Sequence[Any], rows: Any) -> Any:
    """Return how far each cycle is from the one before, by the extents of their components."""
    extents = np.stack([np.ptp(column[rows], axis=1) for column in columns], 1)
    largest = np.maximum(extents.max(0), 1e-300)
    return np.abs(np.diff(extents / largest, axis=0)).sum(1) + 1e-9


def _component(dataset: Dataset, name: str, *leading: str) -> Any:
    """Return the values of a component such as ``w[0,1]`` along the leading dims."""
    variable, _, index = name.rstrip("]").partition("[")
    array: DataArray = dataset[variable].transpose(*leading, ...)
    own = array.dims[len(leading) :]
    chosen = dict(zip(own, map(int, index.split(",")), strict=True)) if index else {}
    return array.isel(chosen).values.reshape([array.sizes[dim] for dim in leading])
