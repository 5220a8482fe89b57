"""The flow of a network on a plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.analyses.plots.look import BLUE, label, need, style
from ctsigprop.analyses.plots.portraits import component, draw_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import Dataset, DataTree

__all__ = ["plot_reduced_flow"]

STREAMS = "#6E6E6E"
NAMES = {"pca": "principal component", "jpca": "axis of rotation", "given": "axis"}
MOST_ORBITS = 60


def plot_reduced_flow(tree: DataTree) -> Figure:
    """Draw the flow in a plane, the trajectories, and how much leads out of the plane.

    The shade of the ground is the share of the speed that leads out of the plane: where it is dark,
    the streamlines tell little. Fixed and slow points are drawn where the tree has a group
    /slow_points (from `slow_points`) or /fixed_points, projected on the plane; filled markers are
    stable, open ones unstable, half-filled ones saddles, and where the flow is only slow they are
    grey. A variable ``label`` of theirs is written beside them.

    Parameters
    ----------
    tree : xarray.DataTree
        From `reduced_flow`, or read back from a store.

    Examples
    --------
    >>> import torch, ctsigprop as ct
    >>> from ctsigprop.analyses.reduced import reduced_flow
    >>> network = ct.System(ct.rate("h", 4, rho="tanh"))
    >>> tree = reduced_flow(network, states={"s_h": torch.randn(9, 4).double()})
    >>> plot_reduced_flow(tree).axes[0].get_xlabel()
    'first principal component'
    """
    from matplotlib.figure import Figure

    need(tree, "plane", "reduced_flow")
    plane = tree["plane"].to_dataset()
    x, y = (plane[name].values for name in ("first", "second"))
    with style():
        figure = Figure(figsize=(5.6, 5.0))
        ax = figure.add_subplot()
        ax.set_title(tree.attrs["title"])
        left = plane["left_out"].transpose("second", "first")
        ground = ax.pcolormesh(
            *(x, y, left.values), cmap="Greys", vmin=0, vmax=1.6, shading="gouraud", rasterized=True
        )
        bar = figure.colorbar(ground, ax=ax, shrink=0.75, aspect=25, pad=0.02)
        bar.ax.set_ylim(0, 1)
        bar.set_label(left.attrs["long_name"])
        u, v = (
            np.ma.masked_invalid(plane[name].transpose("second", "first").values)  # type: ignore[no-untyped-call]
            for name in ("first_rate", "second_rate")
        )
        if u.count():
            ax.streamplot(
                *(x, y, u, v),
                color=STREAMS,
                linewidth=0.6,
                arrowsize=0.7,
                density=1.0,
            )
        _draw_orbits(ax, tree["trajectories"].to_dataset())
        for group in ("slow_points", "fixed_points"):
            if group in tree.children:
                _draw_points(ax, tree[group].to_dataset(), plane)
        axis = NAMES[tree.attrs["basis"]]
        ax.set_xlabel(label(plane["first"], f"first {axis}"))
        ax.set_ylabel(label(plane["second"], f"second {axis}"))
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(y[0], y[-1])
        ax.text(
            *(0.02, 0.98, f"{100 * float(plane['variance'].sum()):.0f}% of the variance"),
            transform=ax.transAxes,
            va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
            zorder=6,
        )
        handles, labels = ax.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        figure.legend(
            shown.values(), shown.keys(), loc="outside lower center", ncols=min(len(shown), 3)
        )
    return figure


def _draw_orbits(ax: Axes, orbits: Dataset) -> None:
    places = orbits["place"].values
    if "time" not in orbits.dims:
        ax.plot(*places.T, ".", color=BLUE, ms=3, label="states")
        return
    chosen = np.linspace(0, places.shape[1] - 1, min(places.shape[1], MOST_ORBITS)).astype(int)
    for k in chosen:
        ax.plot(*places[:, k].T, color=BLUE, lw=0.9, alpha=0.8, zorder=3, label="trajectories")
        ax.plot(*places[0, k], ".", color=BLUE, ms=4, zorder=3)


def _draw_points(ax: Axes, found: Dataset, plane: Dataset) -> None:
    dim = "point" if "point" in found.dims else "fp"
    y = np.stack([component(found, str(name), dim) for name in plane["component"].values], -1)
    z: Any = (y - plane["mean"].values) @ plane["basis"].values
    meanings = found["type"].attrs["flag_meanings"].split()
    kinds = [meanings[flag] for flag in found["type"].values]
    if "kind" in found:
        names = found["kind"].attrs["flag_meanings"].split()
        slow = [names[flag] == "slow_point" for flag in found["kind"].values]
    draw_points(ax, z.T, kinds, slow if "kind" in found else [False] * len(kinds))
    for place, text in zip(z, found["label"].values if "label" in found else (), strict=False):
        ax.annotate(str(text), place, (5, 4), textcoords="offset points", zorder=7)
