"""Phase portraits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.look import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    derivative,
    label,
    need,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

__all__ = ["component", "draw_points", "draw_portrait", "plot_portrait"]

LIGHT_GREY = "#C8C8C8"
MARKERS = {"node": "s", "focus": "o", "star": "*", "improper_node": "p"}
MARKERS |= {"saddle": "D", "saddle_focus": "d", "centre": r"$\odot$"}
MARKERS |= {"degenerate": "X", "marginal": "P"}


def plot_portrait(tree: DataTree) -> Figure:
    """Draw a phase portrait: field, nullclines, manifolds of saddles, orbits and fixed points.

    Filled markers are stable, open ones unstable, half-filled ones saddles. Stable manifolds, which
    are the separatrices, are solid, and unstable ones dashed.

    Parameters
    ----------
    tree : xarray.DataTree
        From `portrait`, or read back from a store; or a tree of such trees, which are drawn side
        by side.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.analyses.phase import portrait
    >>> tree = portrait(ct.System(ct.fitzhugh_nagumo()), {"v": (-2, 2), "w": (-1, 2)})
    >>> plot_portrait(tree).axes[0].get_xlabel()
    '$v$'
    """
    from matplotlib.figure import Figure

    panels = [child for child in tree.children.values() if "vector_field" in child.children]
    if not panels:
        need(tree, "vector_field", "portrait")
        panels = [tree]
    with style():
        figure = Figure(figsize=(4.9 * len(panels) + 0.3, 4.9))
        shown: dict[str, Any] = {}
        for ax, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            draw_portrait(ax, panel)
            handles, labels = ax.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        figure.legend(
            shown.values(),
            shown.keys(),
            loc="outside lower center",
            ncols=min(len(shown), 3 * len(panels)),
        )
    return figure


def draw_portrait(ax: Axes, tree: DataTree) -> None:
    """Draw one portrait into axes."""
    field = tree["vector_field"].to_dataset()
    components = list(tree.attrs["components"])
    x = tree.attrs["axes"][0]
    ax.set_title(tree.attrs["title"])
    ax.set_xlabel(label(field[x]))
    ax.set_xlim(float(field[x][0]), float(field[x][-1]))
    if len(components) == 1:
        _draw_line_field(ax, field, x)
    else:
        _draw_plane(ax, tree, field)
    if "fixed_points" in tree.children:
        _draw_fixed_points(ax, tree["fixed_points"].to_dataset(), components)


def _draw_plane(ax: Axes, tree: DataTree, field: Dataset) -> None:
    x, y = tree.attrs["axes"]
    u, v = (field[f"d{name}_dt"].transpose(y, x).values for name in (x, y))
    ax.set_ylabel(label(field[y]))
    ax.set_ylim(float(field[y][0]), float(field[y][-1]))
    ax.streamplot(
        *(field[x].values, field[y].values, u, v),
        color=LIGHT_GREY,
        linewidth=0.7,
        arrowsize=0.7,
        density=1.1,
    )
    if "nullclines" in tree.children:
        curves = tree["nullclines"].to_dataset()
        for colour, name in ((BLUE, x), (VERMILION, y)):
            own = curves.isel(point=curves["variable"].values == name)
            for _, curve in own.groupby("curve") if own.sizes["point"] else ():
                ax.plot(
                    curve[x],
                    curve[y],
                    color=colour,
                    lw=2.2,
                    clip_on=False,
                    zorder=3,
                    label=f"{derivative(name)} = 0",
                )
    if "manifolds" in tree.children:
        _draw_manifolds(ax, tree["manifolds"].to_dataset(), tree.attrs["components"])
    if "trajectories" in tree.children:
        orbits = [
            component(tree["trajectories"].to_dataset(), name, "time", "sample")
            for name in tree.attrs["components"]
        ]
        ax.plot(*orbits, color="#4D4D4D", lw=0.7, label="orbits")
        ax.plot(*(orbit[0] for orbit in orbits), ".", color="#4D4D4D", ms=3)


def _draw_manifolds(ax: Axes, curves: Dataset, components: Sequence[str]) -> None:
    meanings = curves["manifold"].attrs["flag_meanings"].split()
    looks = {"stable": (GREEN, "-"), "unstable": (PURPLE, (0, (4, 1.5)))}
    where = [component(curves, name, "point") for name in components]
    for k, flag in enumerate(curves["manifold"].values):
        own = curves["curve"].values == k
        colour, dashes = looks[meanings[flag]]
        ax.plot(
            *(place[own] for place in where),
            color=colour,
            ls=dashes,
            lw=1.3,
            zorder=4,
            label=f"{meanings[flag]} manifold",
        )


def _draw_line_field(ax: Axes, field: Dataset, x: str) -> None:
    rate = field[f"d{x}_dt"]
    ax.axhline(0.0, color=GREY, lw=0.8)
    ax.plot(field[x], rate, color=BLUE, label=derivative(x))
    unit = rate.attrs["units"]
    ax.set_ylabel(derivative(x) + (f" ({unit})" if unit != "1" else ""))


def _draw_fixed_points(ax: Axes, found: Dataset, components: Sequence[str]) -> None:
    meanings = found["type"].attrs["flag_meanings"].split()
    where = [component(found, name, "fp") for name in components]
    if len(where) == 1:
        where.append(np.zeros_like(where[0]))
    kinds = [meanings[flag] for flag in found["type"].values]
    draw_points(ax, where, kinds, [False] * len(kinds))


def draw_points(ax: Axes, where: Sequence[Any], kinds: Sequence[str], slow: Sequence[bool]) -> None:
    """Draw points in the plane by their type: filled, open or half-filled; slow ones in grey."""
    for x, y, kind, only_slow in zip(*where, kinds, slow, strict=True):
        colour = GREY if only_slow else BLACK
        stability, _, shape = kind.partition("_") if "stable" in kind else ("", "", kind)
        ax.plot(
            x,
            y,
            marker=MARKERS[shape],
            ms=8 if shape != "star" else 12,
            color=colour,
            markerfacecolor="white" if stability == "unstable" else colour,
            markerfacecoloralt="white",
            fillstyle="left" if kind.startswith("saddle") else "full",
            label=kind.replace("_", " ") + (", slow" if only_slow else ""),
            zorder=5 - only_slow / 2,
            clip_on=False,
            ls="",
        )


def component(dataset: Dataset, name: str, *leading: str) -> Any:
    """Return the values of a component such as ``w[0,1]`` along the leading dims."""
    variable, _, index = name.rstrip("]").partition("[")
    array = dataset[variable].transpose(*leading, ...)
    own = array.dims[len(leading) :]
    chosen = dict(zip(own, map(int, index.split(",")), strict=True)) if index else {}
    return array.isel(chosen).values.reshape([array.sizes[dim] for dim in leading])
